"""MARC (arXiv 2604.18146, our reading): hidden states of a language model, compressed for the CTR task.

produce   the producer: states of all texts, compressed by the frozen part; read first
states    texts -> hidden states of the language model, one vector per text and depth, here or on workers
store     hidden states on disk, by content
pairs     training pairs: interactions with the user version that was visible then
network   compression, and the user-item matching that trains it
train     the fit of a compression, under the information constraint
frozen    a fitted compression
adapt     optional: low-rank updates (LoRA) of a job's language model, as a model folder
"""
