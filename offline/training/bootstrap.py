"""Paired bootstrap intervals of AUC differences between models, over users and over several seeds at once.

Whole users are resampled, since samples of one user are not independent. A model is its seeds: in every resample the
AUC of a model is the mean over its seeds, so that an interval covers the users that might have come, not the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """AUC of one model minus that of another: the whole test set's, and the bounds of its 95 % interval."""

    middle: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.middle:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


class Resamples:
    """The same resamples of users for every model, so that differences are paired."""

    def __init__(self, label: Array, user: Array, count: int = 1000, seed: int = 0) -> None:
        """``label`` [n] 0 or 1 and ``user`` [n] of the test samples."""
        self._label = np.asarray(label) > 0.5
        _, self._owner = np.unique(user, return_inverse=True)
        users = int(self._owner.max()) + 1
        generator = np.random.default_rng(seed)
        self._weights = [np.ones(users)] + [
            np.bincount(generator.integers(users, size=users), minlength=users).astype(np.float64) for _ in range(count)
        ]

    def auc(self, score: Array) -> Array:
        """AUC [1 + count] of one set of scores [n]: of the whole set first, then of every resample."""
        order = np.argsort(score, kind="stable")
        sorted_score = score[order]
        first = np.flatnonzero(np.concatenate([[True], sorted_score[1:] != sorted_score[:-1]]))  # of equal scores
        positive, owner = self._label[order], self._owner[order]
        return np.array([_weighted_auc(weights[owner], positive, first) for weights in self._weights])

    def mean_auc(self, scores: Mapping[int, Array]) -> Array:
        """The mean over seeds of ``auc``."""
        return np.asarray(np.mean([self.auc(score) for score in scores.values()], axis=0))


def difference(one: Array, other: Array) -> Difference:
    """Of two models' ``mean_auc`` over the same resamples."""
    deltas = (one - other)[1:]
    low, high = np.nanpercentile(deltas, [2.5, 97.5])
    return Difference(float(one[0] - other[0]), float(low), float(high))


def _weighted_auc(weights: Array, positive: Array, first: Array) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN if one of them has no weight."""
    won = np.add.reduceat(weights * positive, first)
    lost = np.add.reduceat(weights * ~positive, first)
    below = np.cumsum(lost) - lost
    total = won.sum() * lost.sum()
    return float((won * (below + 0.5 * lost)).sum() / total) if total else float("nan")
