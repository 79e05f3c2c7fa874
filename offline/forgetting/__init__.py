"""Forgetting users in all that the jobs store, and exporting it (docs/forgetting.md). Read ``run`` first.

stores    the one list of stores in the work folder, by which users are forgotten and exported
export    all that is stored of a user, readable
run       the step ``forget``: from the tombstones to the receipts
rows      what is numbered by rows or users of the log, replaced together: the log, knowledge, imported texts, reports
contents  what is stored by content: answers of the language model, encoded texts, hidden states
archives  rows of Parquet archives, of users who are forgotten and of exposures that are too old
journal   what is found by key or position: the undo journal, the write cache, bad rows, errors, files of killed runs
"""
