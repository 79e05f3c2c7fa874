"""Languages of catalogues: the sentences that prompts and encoded texts are made of, and the signs by which an answer
in the language, or a refusal, is told. Everything that the project says by itself to a language model or to a text
encoder about a data set stands in here; what a configuration says does not.

language  what a language consists of
english   the default; its sentences are in the fingerprints of all spaces that exist, and may not change
german    German
chinese   Chinese, in simplified characters
japanese  Japanese
function_words  by which answers in languages without sentences of their own are told from English
registry  the language of a code: one of these, or English questions with an answer in that language

A language more is a module like german and a line in registry.
"""
