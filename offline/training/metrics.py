"""Ranking quality: AUC, LogLoss, GAUC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Quality:
    """``gauc`` (arXiv 1706.06978, section 5.1): mean per-user AUC, weighted by samples, of users with both labels."""

    auc: float
    logloss: float
    gauc: float


def quality(label: Array, score: Array, user: Array) -> Quality:
    """Quality of probabilities ``score`` against ``label``; ValueError if only one label occurs."""
    clipped = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    return Quality(float(roc_auc_score(label, score)), float(log_loss(label, clipped)), _gauc(label, score, user))


def _gauc(label: Array, score: Array, user: Array) -> float:
    total, weight = 0.0, 0
    for one in np.unique(user):
        rows = user == one
        if label[rows].min() != label[rows].max():
            total += float(roc_auc_score(label[rows], score[rows])) * int(rows.sum())
            weight += int(rows.sum())
    return total / weight if weight else float("nan")
