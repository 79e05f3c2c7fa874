"""MARC (arXiv 2604.18146): compressed hidden states of a language model. Nothing is built here yet."""
