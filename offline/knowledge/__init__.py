"""Offline knowledge: what language models say about users and items, as compact vectors.

run         one run over all producers; read first
config      settings of all of them
sources     what every producer reads, and the spaces it makes
vectors     what every producer makes, and which of it a sample may see
errors      why a producer cannot make its frozen parts yet
texts       the text of an item
knowledge_texts  texts of the language model about items, closed partitions and shifts
quality     which answers of a language model may become knowledge
encoder     texts -> unit vectors, stored by content
projection  wide text vectors -> the few dimensions that are served, frozen
repeatable  fitting the frozen parts of a space again from the same data
load        vectors of the last run, fitted to today's log
export      encoded texts and hidden states of a job -> a file that a configuration can ship
shipped     that file, read by a first run
plain       producer: items' own texts, no language model; the control
liber       producer: summaries of a user's closed partitions
autograph   producer: latent factors and a graph of users and items
marc        producer: compressed hidden states of the language model
"""
