"""Serving frameworks around the plain model. They run in an environment of their own (bench/requirements.txt)."""
