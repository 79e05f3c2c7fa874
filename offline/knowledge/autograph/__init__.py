"""AutoGraph (arXiv 2412.18241): latent factors by residual quantisation. Nothing is built here yet."""
