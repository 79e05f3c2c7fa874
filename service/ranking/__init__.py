"""The domain: one request from candidates to an order. No web framework, Redis or ONNX in here."""
