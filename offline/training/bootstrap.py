"""Paired bootstrap intervals of AUC differences between models, over users and over several seeds at once.

Whole users are resampled, since samples of one user are not independent. A model is its seeds: in every resample the
AUC of a model is the mean over its seeds, so that an interval covers the users that might have come, not the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import Array

_MOST_USERS = 4000
"""Users whose pairs are counted: they take 128 MB."""


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

    @property
    def is_defined(self) -> bool:
        """Whether there are samples of both labels; without, all three are NaN."""
        return not np.isnan(self.middle)

    def __str__(self) -> str:
        if not self.is_defined:
            return "undefined"
        return f"{self.middle:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


class Resamples:
    """The same resamples of users for every model, so that differences are paired.

    How often positives of user u score above negatives of user v does not depend on the resample: with few users it is
    counted once, and the AUC of a resample with user weights w is w' counts w over the weighted number of pairs. The
    counts are whole and half numbers, so nothing is rounded before the last division.
    """

    def __init__(self, label: Array, user: Array, count: int = 1000, seed: int = 0, users: Array | None = None) -> None:
        """``label`` [n] 0 or 1 and ``user`` [n] of the test samples; ``users``: all that are resampled, so that several
        sets of samples have the same resamples, None for those that have samples here."""
        self._label = np.asarray(label) > 0.5
        distinct = np.unique(user if users is None else users)
        self._owner = np.searchsorted(distinct, user)
        self._users = drawn = len(distinct)
        generator = np.random.default_rng(seed)
        self._weights = np.array(
            [np.ones(drawn)]
            + [np.bincount(generator.integers(drawn, size=drawn), minlength=drawn) for _ in range(count)],
            np.float64,
        )  # [1 + count, users]

    def auc(self, score: Array) -> Array:
        """AUC [1 + count] of one set of scores [n]: of the whole set first, then of every resample."""
        return self._auc_by_resample(score) if self._users > _MOST_USERS else self._auc_by_pairs(score)

    def mean_auc(self, scores: Mapping[int, Array]) -> Array:
        """The mean over seeds of ``auc``."""
        return np.asarray(np.mean([self.auc(score) for score in scores.values()], axis=0))

    def mean(self, values: Array) -> Array:
        """Mean [1 + count] of one value per sample [n], such as its LogLoss, in the order of ``auc``."""
        sums = self._weights @ np.bincount(self._owner, values.astype(np.float64), self._users)
        return np.asarray(sums / (self._weights @ np.bincount(self._owner, minlength=self._users)))

    def _auc_by_resample(self, score: Array) -> Array:
        order = np.argsort(score, kind="stable")
        sorted_score = score[order]
        first = np.flatnonzero(np.concatenate([[True], sorted_score[1:] != sorted_score[:-1]]))  # of equal scores
        positive, owner = self._label[order], self._owner[order]
        return np.array([_weighted_auc(weights[owner], positive, first) for weights in self._weights])

    def _auc_by_pairs(self, score: Array) -> Array:
        # Equal scores count half: the mean of placing their positives before and after their negatives.
        below = self._won(np.lexsort((~self._label, score)))
        counts = (below + self._won(np.lexsort((self._label, score)))) / 2
        positives = self._weights @ np.bincount(self._owner, self._label, self._users)
        negatives = self._weights @ np.bincount(self._owner, ~self._label, self._users)
        pairs = positives * negatives
        won = np.einsum("ru,ru->r", self._weights @ counts, self._weights)
        return np.asarray(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))

    def _won(self, order: Array) -> Array:
        """[users, users]: pairs of a positive of u and a negative of v in which the negative is first in ``order``."""
        won, passed = np.zeros((self._users, self._users)), np.zeros(self._users)
        for owner, positive in zip(self._owner[order].tolist(), self._label[order].tolist(), strict=True):
            if positive:
                won[owner] += passed
            else:
                passed[owner] += 1
        return won


def difference(auc: Array, baseline: Array) -> Difference:
    """The difference of two models' ``mean_auc`` over the same resamples."""
    deltas = (auc - baseline)[1:]
    return Difference(float(auc[0] - baseline[0]), *interval(deltas))


def interval(resampled: Array) -> tuple[float, float]:
    """Bounds of the 95 % interval of a measure over resamples; those of one label count for nothing, and without
    others both are NaN."""
    if np.isnan(resampled).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def _weighted_auc(weights: Array, positive: Array, first: Array) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN if one of them has no weight."""
    won = np.add.reduceat(weights * positive, first)
    lost = np.add.reduceat(weights * ~positive, first)
    below = np.cumsum(lost) - lost
    total = won.sum() * lost.sum()
    return float((won * (below + 0.5 * lost)).sum() / total) if total else float("nan")
