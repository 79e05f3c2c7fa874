"""Samples -> CTR models -> an ONNX artifact.

samples    what is predicted, and what was known before    fit     one model on one seed
metrics    AUC, LogLoss, GAUC                              run     all models of a configuration, the quality table
bootstrap  paired intervals                                trials  models of one seed each, kept for tables
"""
