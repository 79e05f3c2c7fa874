"""Offline knowledge: what language models say about users and items, as compact vectors.

run         one run over all producers, and what they last made; read first
config      settings of all of them
sources     what every producer reads, and the spaces it makes
vectors     what every producer makes, and which of it a sample may see
errors      why a producer cannot make its frozen parts yet
prompts     what the language model is asked about items and partitions, and what is encoded
knowledge_texts  texts of the language model about items, closed partitions and shifts
quality     which answers of a language model may become knowledge
encoder     texts -> unit vectors, stored by content
projection  wide text vectors -> the few dimensions that are served, frozen
export      encoded texts and hidden states of a job -> a file that a configuration can ship
shipped     that file, read by a first run
plain       producer: items' own texts, no language model; the control
liber       producer: summaries of a user's closed partitions
autograph   producer: latent factors and a graph of users and items
marc        producer: compressed hidden states of the language model
"""
