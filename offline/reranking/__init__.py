"""The generative reranker, offline: a causal language model tuned to answer yes or no about one candidate.

The published form is ReLLa (arXiv 2308.11131); docs/reranking.md says what is ours. The service asks the tuned model
through a server, by the manifest that is written here (models/contract/reranker.py).
"""
