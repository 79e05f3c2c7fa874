"""A first configuration for files that nobody has described: what `python -m offline init` looks at and writes.

encodings   the encoding of a text file
forms       the form of a text file: encoding, separator, quotes, header
times       times as the cells of a column say them
values      values, and how many cells of a column may be bad
id_columns  columns of users and items by the ids they hold and by their names
roles       the columns of interactions: user, item, time, value, part; and the ids of the tables that describe them
features    the columns of users and items as features, and those of them that a model reads
owners      the tables of users and items: ids that come twice, words among numbers
titles      the column that names an item
settings    numbers that follow from how much there is: labels, min_history, partition_size, dimensions
language    the language of a catalogue, and words for its items
texts       the section of texts: title, template, words
toml        parts of a TOML file
document    the commented TOML file, and its sections of data
model       the sections of samples, schema, knowledge and training
propose     all of it, from three paths to a proposal; read first
"""
