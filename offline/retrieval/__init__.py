"""Indexes of item vectors: which kind, how good."""
