"""What service and offline share: the contract, the CTR models (torch; offline only), models in parts, the way to ONNX
Runtime, which runs them, the number of cores, the embedded Redis, and what a Redis URL says."""
