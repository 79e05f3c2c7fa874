"""The HTTP surface: bodies, answers and routes. No ranking logic."""
