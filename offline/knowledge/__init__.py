"""Offline knowledge: what language models say about users and items, as compact vectors.

texts       the text of an item
liber       a user's interest partitions (first cut: one summary per closed partition)
encoding    texts -> vectors -> a frozen projection; defines the spaces
autograph   latent-factor graph (planned)      marc   compressed hidden states (planned)
"""
