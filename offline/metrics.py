"""Ranking quality: AUC, LogLoss, GAUC, NDCG, reciprocal ranks; and calibration, how far scores are from outcomes. The
only implementations; none depends on the order of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import Array

_CERTAIN = 1e-7
"""Scores this close to 0 or 1 count as that close: a certain and wrong score has a finite loss."""

GAUC_SAMPLES = 10
"""Samples from which on a user counts in a GAUC: the order of two or three is decided by chance."""


@dataclass(frozen=True, slots=True)
class Quality:
    """``gauc`` (arXiv 1706.06978, section 5.1): mean per-user AUC, weighted by samples, of users with both labels and
    ``GAUC_SAMPLES`` or more samples. ``ece`` is the expected calibration error."""

    auc: float
    logloss: float
    gauc: float
    ece: float = float("nan")


def best_epoch(judged: Sequence[Quality]) -> int:
    """The number of the first epoch of lowest LogLoss, from 0; all were judged on the same samples."""
    return int(np.argmin([epoch.logloss for epoch in judged]))


def quality(label: Array, score: Array, user: Array) -> Quality:
    """Quality of probabilities ``score`` [n] against ``label`` [n]; AUC is NaN if only one label occurs, GAUC if no
    user counts."""
    logloss, ece = float(log_losses(label, score).mean()), expected_calibration_error(label, score)
    return Quality(auc(label, score), logloss, gauc(label, score, user), ece)


def auc(label: Array, score: Array) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN if only one label occurs."""
    return gauc(label, score, np.zeros(len(label)), least=1)


def gauc(label: Array, score: Array, user: Array, least: int = GAUC_SAMPLES) -> float:
    """Mean AUC within users, weighted by samples, over users that have both labels and ``least`` samples; NaN without
    any."""
    if not len(label):
        return float("nan")
    ranked = _Ranked.of(user, score.astype(np.float64))
    areas = _areas(ranked, label)
    mixed = ~np.isnan(areas) & (ranked.sizes >= least)
    return float(np.average(areas[mixed], weights=ranked.sizes[mixed])) if mixed.any() else float("nan")


def auc_within(label: Array, score: Array, group: Array) -> Array:
    """AUC [groups] within each group of samples, groups rising; NaN for a group of one label."""
    return _areas(_Ranked.of(group, score.astype(np.float64)), label)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Mean score, share of positives and number of samples of each bin."""

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
    curve = reliability(label, score, bins)
    distance = np.abs(np.array(curve.centres) - np.array(curve.observed))
    return float(np.average(distance, weights=curve.count))


def in_words(measure: float | None) -> str:
    """A measure with four digits; "undefined" for None and NaN, as the AUC of samples of one label."""
    return "undefined" if measure is None or np.isnan(measure) else f"{measure:.4f}"


def log_losses(label: Array, score: Array) -> Array:
    """LogLoss [n] of every sample."""
    chance = np.clip(score.astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    return -np.log(np.where(np.asarray(label) > 0.5, chance, 1 - chance))


def ndcg_at(label: Array, score: Array, user: Array, k: int = 10) -> float:
    """Mean of ``ndcg_within`` over users that have both labels; NaN without any."""
    gains = ndcg_within(label, score, user, k)
    return float("nan") if np.isnan(gains).all() else float(np.nanmean(gains))


def ndcg_within(label: Array, score: Array, group: Array, k: int = 10) -> Array:
    """NDCG@k [groups] with gains 0 and 1 within each group of samples, groups rising; NaN for a group of one label.

    Samples of one score get the mean discount of the places that they fill together, which is the expectation over
    their orders (McSherry and Najork, ECIR 2008).
    """
    ranked = _Ranked.of(group, -score.astype(np.float64))
    gained = ranked.per_user(ranked.shared(_discount(ranked.place, k)) * ranked.positive(label))
    ideal = np.cumsum(_discount(np.arange(int(ranked.sizes.max())), k))
    positives, mixed = ranked.positives(label)
    best = ideal[np.maximum(positives.astype(np.int64), 1) - 1]
    return np.where(mixed, gained / best, np.nan)


def reciprocal_rank_within(label: Array, score: Array, group: Array) -> Array:
    """1 / rank [groups] of the first positive of each group of samples, groups rising; 0 for a group without one.
    Samples of one score have the mean of the ranks that they fill together."""
    ranked = _Ranked.of(group, -score.astype(np.float64))
    first = np.full(len(ranked.sizes), np.inf)
    places = ranked.shared(ranked.place.astype(np.float64))
    np.minimum.at(first, ranked.owner, np.where(ranked.positive(label), places, np.inf))
    return np.asarray(1 / (first + 1))


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


def _areas(ranked: _Ranked, label: Array) -> Array:
    """AUC [users] within each user of samples that are sorted by rising score; NaN for a user of one label."""
    ranks = ranked.per_user((ranked.shared(ranked.place.astype(np.float64)) + 1) * ranked.positive(label))
    positives, mixed = ranked.positives(label)
    won, pairs = ranks - positives * (positives + 1) / 2, positives * (ranked.sizes - positives)
    return np.asarray(np.divide(won, pairs, out=np.full(len(won), np.nan), where=mixed))


def _discount(place: Array, k: int) -> Array:
    """1 / log2(rank + 1) of places from 0; nothing below the k-th."""
    return np.where(place < k, 1 / np.log2(place + 2), 0.0)
