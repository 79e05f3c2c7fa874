"""What Redis holds: users, their feedback, and the catalogue."""
