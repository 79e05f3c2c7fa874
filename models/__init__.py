"""What service and offline share: the contract, the CTR models (torch; offline only) and the embedded Redis."""
