"""Ranking quality: AUC, LogLoss, GAUC, NDCG. The only implementations; none depends on the order of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import Array

_CERTAIN = 1e-7
"""Scores this close to 0 or 1 count as that close: a certain and wrong score has a finite loss."""


@dataclass(frozen=True, slots=True)
class Quality:
    """``gauc`` (arXiv 1706.06978, section 5.1): mean per-user AUC, weighted by samples, of users with both labels."""

    auc: float
    logloss: float
    gauc: float

    @property
    def merit(self) -> float:
        """Higher is better, for comparisons on the same samples: AUC, or minus the LogLoss where AUC is not defined."""
        return -self.logloss if np.isnan(self.auc) else self.auc


def best_epoch(judged: Sequence[Quality]) -> int:
    """The number of the first epoch of highest ``merit``, from 0; all were judged on the same samples."""
    return int(np.argmax([epoch.merit for epoch in judged]))


def quality(label: Array, score: Array, user: Array) -> Quality:
    """Quality of probabilities ``score`` [n] against ``label`` [n]; AUC and GAUC are NaN if only one label occurs."""
    return Quality(auc(label, score), float(log_losses(label, score).mean()), gauc(label, score, user))


def auc(label: Array, score: Array) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN if only one label occurs."""
    return gauc(label, score, np.zeros(len(label)))


def gauc(label: Array, score: Array, user: Array) -> float:
    """Mean AUC within users, weighted by samples, over users that have both labels; NaN without any."""
    if not len(label):
        return float("nan")
    ranked = _Ranked.of(user, score.astype(np.float64))
    ranks = ranked.per_user((ranked.shared(ranked.place.astype(np.float64)) + 1) * ranked.positive(label))
    positives, mixed = ranked.positives(label)
    won = (ranks - positives * (positives + 1) / 2)[mixed]
    areas = won / (positives * (ranked.sizes - positives))[mixed]
    return float(np.average(areas, weights=ranked.sizes[mixed])) if mixed.any() else float("nan")


def in_words(measure: float | None) -> str:
    """A measure with four digits; "undefined" for None and NaN, as the AUC of samples of one label."""
    return "undefined" if measure is None or np.isnan(measure) else f"{measure:.4f}"


def log_losses(label: Array, score: Array) -> Array:
    """LogLoss [n] of every sample."""
    chance = np.clip(score.astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    return -np.log(np.where(np.asarray(label) > 0.5, chance, 1 - chance))


def ndcg_at(label: Array, score: Array, user: Array, k: int = 10) -> float:
    """NDCG@k with gains 0 and 1, mean over users that have both labels; NaN without any.

    Samples of one score get the mean discount of the places that they fill together, which is the expectation over
    their orders (McSherry and Najork, ECIR 2008).
    """
    ranked = _Ranked.of(user, -score.astype(np.float64))
    gained = ranked.per_user(ranked.shared(_discount(ranked.place, k)) * ranked.positive(label))
    ideal = np.cumsum(_discount(np.arange(int(ranked.sizes.max())), k))
    positives, mixed = ranked.positives(label)
    return float(np.mean(gained[mixed] / ideal[positives[mixed].astype(np.int64) - 1])) if mixed.any() else float("nan")


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Samples user by user, each user's sorted by a key. ``order`` [n] of the samples, ``place`` [n] within the user
    from 0, ``tie`` [n] numbers the groups of equal keys of one user, ``owner`` [n] the users, ``sizes`` [users]."""

    order: Array
    place: Array
    tie: Array
    owner: Array
    sizes: Array

    @classmethod
    def of(cls, user: Array, key: Array) -> _Ranked:
        """ValueError for a key that is no number, which would sort somewhere without a word."""
        if np.isnan(key).any():
            raise ValueError("a score is not a number")
        order = np.lexsort((key, user))
        user, key = user[order], key[order]
        first = np.concatenate([[True], user[1:] != user[:-1]])
        starts = np.flatnonzero(first)
        sizes = np.diff(np.append(starts, len(user)))
        place = np.arange(len(user)) - np.repeat(starts, sizes)
        tie = np.cumsum(first | np.concatenate([[True], key[1:] != key[:-1]])) - 1
        return cls(order, place, tie, np.cumsum(first) - 1, sizes)

    def shared(self, values: Array) -> Array:
        """``values`` [n] with the mean over its tie in place of each."""
        return np.asarray((np.bincount(self.tie, weights=values) / np.bincount(self.tie))[self.tie])

    def per_user(self, values: Array) -> Array:
        """Sums [users] of ``values`` [n]."""
        return np.bincount(self.owner, weights=values)

    def positive(self, label: Array) -> Array:
        """Whether each sample is positive, bool [n] in ``order``."""
        return np.asarray(label)[self.order] > 0.5

    def positives(self, label: Array) -> tuple[Array, Array]:
        """Positives [users] of each user, and whether the user [users] has both labels."""
        count = self.per_user(self.positive(label))
        return count, (count > 0) & (count < self.sizes)


def _discount(place: Array, k: int) -> Array:
    """1 / log2(rank + 1) of places from 0; nothing below the k-th."""
    return np.where(place < k, 1 / np.log2(place + 2), 0.0)
