"""Finding candidates for who brings none."""
