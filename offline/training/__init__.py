"""Samples -> CTR models -> an ONNX artifact.

samples    what is predicted, and what was known before    fit     one model on one seed
metrics    AUC, GAUC, NDCG, LogLoss                        run     all models of a configuration, the quality table
bootstrap  intervals over users
"""
