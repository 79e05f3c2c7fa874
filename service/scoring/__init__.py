"""Running the CTR model."""
