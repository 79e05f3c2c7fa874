"""LIBER (arXiv 2411.14713): lifelong behaviour in closed partitions, each read once by a language model.

The paper's text and code are not public; what is here is our reading of its abstract and of summaries: an interest
summary per closed partition, a shift between neighbouring ones, and their fusion in the CTR model
(models/ctr/build.py).
"""
