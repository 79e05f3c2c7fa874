"""CTR models in torch. Only the offline jobs import this package; the service runs the exported ONNX graph.

layers    building blocks, the fusion of partition vectors among them
features  input tensors -> embeddings, shared by all models
lifelong  target attention over whole histories, beside a process of the user's ratings
gaussian_process  ratings of one user as a Gaussian process over items
running   how often, how lately and with which values a user met an item and its fields
tree      boosted trees over these
build     DIN, DCNv2 and DeepFM, and a model by name
calibration  logits stretched and shifted, so that scores are shares
export    torch -> ONNX, with the artifact manifest inside and a parity check
cut       the graph of a model in three, cut where the user comes in
split     these parts as files, and the rehearsal that they give the scores of the whole
"""
