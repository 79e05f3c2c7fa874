"""What service and offline share: the contract, the CTR models (torch; offline only), the embedded Redis and the way to
ONNX Runtime."""
