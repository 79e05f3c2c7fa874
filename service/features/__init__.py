"""Users in Redis: what is stored about them, and what they did."""
