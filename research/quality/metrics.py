"""Quality beyond AUC and LogLoss: calibration, and ranking within users. No metric depends on the order of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CERTAIN = 1e-7  # as offline/training/metrics.py: a certain and wrong score has a finite loss


@dataclass(frozen=True, slots=True)
class Reliability:
    """Of each bin: the mean score, the share of positives, and how many samples there are."""

    centres: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]


def reliability(label: Array, score: Array, bins: int = 15) -> Reliability:
    """Bins of equal mass over the ranks of the scores [n]. Equal scores share their mean rank and so a bin, which makes
    some bins larger, or leaves them out."""
    _, value, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count + 1) / 2  # of each value, from 0
    place = (rank * bins // len(score)).astype(np.int64)[value]
    _, place, count = np.unique(place, return_inverse=True, return_counts=True)
    centres, observed = (np.bincount(place, column.astype(np.float64)) / count for column in (score, label))
    return Reliability(tuple(centres.tolist()), tuple(observed.tolist()), tuple(count.tolist()))


def expected_calibration_error(label: Array, score: Array, bins: int = 15) -> float:
    """Mean distance between scores and outcomes over bins of equal mass, weighted by samples (arXiv 1706.04599, eq. 3,
    whose bins are of equal width)."""
    found = reliability(label, score, bins)
    distance = np.abs(np.array(found.centres) - np.array(found.observed))
    return float(np.average(distance, weights=found.count))


def log_losses(label: Array, score: Array) -> Array:
    """LogLoss [n] of every sample."""
    chance = np.clip(score.astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    return -np.log(np.where(label > 0.5, chance, 1 - chance))


def ndcg_at(label: Array, score: Array, user: Array, k: int = 10) -> float:
    """NDCG@k with gains 0 and 1, mean over users that have both labels; NaN without any.

    Samples of one score get the mean discount of the places that they fill together, which is the expectation over
    their orders (McSherry and Najork, ECIR 2008).
    """
    ranked = _Ranked.of(user, -score.astype(np.float64))
    gained = ranked.per_user(ranked.shared(_discount(ranked.place, k)) * label[ranked.order])
    ideal = np.cumsum(_discount(np.arange(int(ranked.sizes.max())), k))
    positive, mixed = ranked.positives(label)
    return float(np.mean(gained[mixed] / ideal[positive[mixed].astype(np.int64) - 1])) if mixed.any() else float("nan")


def user_auc(label: Array, score: Array, user: Array) -> float:
    """GAUC, as ``gauc`` of offline/training/metrics.py, which takes seconds where this takes milliseconds."""
    ranked = _Ranked.of(user, score.astype(np.float64))
    ranks = ranked.per_user((ranked.shared(ranked.place.astype(np.float64)) + 1) * label[ranked.order])
    positive, mixed = ranked.positives(label)
    won = (ranks - positive * (positive + 1) / 2)[mixed]
    auc = won / (positive * (ranked.sizes - positive))[mixed]
    return float(np.average(auc, weights=ranked.sizes[mixed])) if mixed.any() else float("nan")


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

    def positives(self, label: Array) -> tuple[Array, Array]:
        """Positives [users] of each user, and whether the user [users] has both labels."""
        positive = self.per_user(label[self.order])
        return positive, (positive > 0) & (positive < self.sizes)


def _discount(place: Array, k: int) -> Array:
    """1 / log2(rank + 1) of places from 0; nothing below the k-th."""
    return np.where(place < k, 1 / np.log2(place + 2), 0.0)
