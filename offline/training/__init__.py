"""Samples -> CTR models -> an ONNX artifact.

run         all models of a configuration, the quality table; read first
candidates  the models that a configuration trains, and the one that "auto" chose
choose      that choice
cost        the time that scoring candidates takes
samples     what is predicted, and what was known before
statistics  counts, means and trends of what came before
validation  validation samples, on which exported models are compared
sequences   whole histories as training input
item_dropout  items that some users do not know in training
fit         one model on one seed
epochs      the epochs of a training, of which the best is kept
lifelong    the fit of the model of whole histories, and of its process of ratings
tree        the growing of boosted trees
bootstrap   intervals over users
diagnosis   what a report says of the served model beyond the quality table
slices      the served model on parts of the test samples
verdict     the served model against all others, and a sentence if something speaks against it
scores      the distribution of scores, and how it moved
importance  what exchanging a group of inputs costs
drift       what a training looked at, against the last one
artifact    the exported model, compared with torch
retraining  users who were forgotten since, whom the next training is without
report      counts, artifact and quality table, as text
page        the report as a page
"""
