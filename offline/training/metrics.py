"""Ranking quality: AUC, LogLoss, GAUC, and paired bootstrap intervals over users."""

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


def paired_interval(
    label: Array, score: Array, other: Array, user: Array, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high): AUC of ``score`` minus AUC of ``other``, with a 95 % interval.

    Whole users are resampled, since samples of one user are not independent.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(user, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(user[order]) != 0]))
    groups = np.split(order, starts[1:])
    differences = []
    for _ in range(resamples):
        rows = np.concatenate([groups[at] for at in generator.integers(len(groups), size=len(groups))])
        if label[rows].min() != label[rows].max():
            differences.append(_auc(label[rows], score[rows]) - _auc(label[rows], other[rows]))
    low, high = np.percentile(differences, [2.5, 97.5])
    return _auc(label, score) - _auc(label, other), float(low), float(high)


def _gauc(label: Array, score: Array, user: Array) -> float:
    total, weight = 0.0, 0
    for one in np.unique(user):
        rows = user == one
        if label[rows].min() != label[rows].max():
            total += float(roc_auc_score(label[rows], score[rows])) * int(rows.sum())
            weight += int(rows.sum())
    return total / weight if weight else float("nan")


def _auc(label: Array, score: Array) -> float:
    return float(roc_auc_score(label, score))
