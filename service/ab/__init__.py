"""Which arm a unit is in: a file of arms and a hash."""
