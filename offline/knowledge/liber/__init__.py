"""LIBER (arXiv 2411.14713): lifelong behaviour in closed partitions, each read once by a language model.

The paper's text and code are not public; what is here is our reading of its abstract and of summaries. This first
cut makes one interest summary per closed partition. Interest shifts between partitions are not made yet.
"""
