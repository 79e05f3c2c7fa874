"""Rearranging the head of the list."""
