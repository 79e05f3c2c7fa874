"""Offline knowledge: what language models say about users and items, as compact vectors.

run         one run over all producers, and the knowledge that they last made; read first
config      settings of all of them
inputs      inputs of every producer, and the spaces it makes
vectors     outputs of every producer, and which of them a sample may see
errors      why a producer cannot make its frozen parts yet
needs       what of that can be told before a prompt is asked
prompts     questions to the language model about items and partitions, and the texts that are encoded
knowledge_texts  texts of the language model about items, closed partitions and shifts
quality     answers of a language model that may become knowledge
faithfulness  titles, names and years in an answer that its question does not have
encoder     texts -> unit vectors, stored by content
pooling     what an encoder's folder says of itself, and how its hidden states become one vector
multilingual  an encoder of sixteen languages, from a package of its own
projection  wide text vectors -> the few dimensions that are served, frozen
shipped     encoded texts, hidden states and groups that a configuration ships, read by a first run
plain       producer: items' own texts, no language model; the control
liber       producer: summaries of a user's closed partitions
autograph   producer: latent factors and a graph of users and items
marc        producer: compressed hidden states of the language model
groups      producer: what the language model says of groups of items and of users
numbers     producer: the language model's answers on scales, as numbers
"""
