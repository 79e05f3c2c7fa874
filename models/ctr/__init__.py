"""CTR models in torch. Only the offline jobs import this package; the service runs the exported ONNX graph.

layers    building blocks        features  input tensors -> embeddings, shared by all models
dcn       DCNv2                  deepfm    DeepFM          din  target attention over history and partitions
build     a model by name        export    torch -> ONNX, with the artifact manifest inside and a parity check
"""
