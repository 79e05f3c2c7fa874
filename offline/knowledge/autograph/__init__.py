"""AutoGraph (arXiv 2412.18241, our reading): texts -> latent factors -> a graph -> vectors of users and items.

produce   the producer: fits the frozen parts once, then assigns; read first
train     the fit of the two quantisers and the network, on the training period
quantise  text vectors -> codes, by residual quantisation inside an autoencoder
graph     neighbours of users, items and factors, as padded arrays
network   message passing over that graph, and its input
assign    vectors of new, changed and known users and items by the frozen parts
"""
