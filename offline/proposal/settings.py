"""Numbers that follow from how much there is: which samples count, when a partition closes, how wide a vector is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.contract.arrays import IntArray

_HISTORIES = (5, 3, 2, 1, 0)
_PARTITIONS = (50, 30, 20, 10, 5)
_LEAST_ROWS, _LEAST_USERS = 0.5, 0.3
"""Shares of interactions that become samples, and of users whom LIBER covers, that the first fitting number reaches."""

_LEAST_WORTH = 0.05
"""Share of users with a partition below which LIBER is not worth its questions."""

_LEAST_LABEL = 0.2
"""Share of either label that a bound in the middle of the scale must leave."""

_WIDEST = 64


@dataclass(frozen=True, slots=True)
class Amounts:
    """``per_user`` [users]: interactions of each; ``items``: how many are described."""

    per_user: IntArray
    items: int

    @classmethod
    def of(cls, interactions: pl.DataFrame, user: str, items: int) -> Amounts:
        counts = interactions[user].drop_nulls().value_counts()["count"]
        return cls(counts.to_numpy().astype(np.int64), items)

    def used(self, min_history: int) -> float:
        """Share of interactions that have ``min_history`` earlier ones."""
        return float(np.maximum(self.per_user - min_history, 0).sum() / max(1, self.per_user.sum()))

    def covered(self, partition_size: int) -> float:
        """Share of users with a closed partition."""
        return float((self.per_user >= partition_size).mean()) if len(self.per_user) else 0.0

    def partitions(self, size: int) -> int:
        """Partitions of all users: each is a question to the language model."""
        return int((self.per_user // size).sum())

    @property
    def min_history(self) -> int:
        return _first(_HISTORIES, self.used, _LEAST_ROWS)

    @property
    def partition_size(self) -> int | None:
        """None if hardly anybody would have a partition of any size."""
        size = _first(_PARTITIONS, self.covered, _LEAST_USERS)
        return size if self.covered(size) >= _LEAST_WORTH else None

    @property
    def history_length(self) -> int:
        """Interactions of a user that a model reads: as many as nineteen of twenty have, from 10 to 50."""
        return int(np.clip(np.quantile(self.per_user, 0.95), 10, 50)) if len(self.per_user) else 10

    @property
    def text_dim(self) -> int:
        """Numbers of an item's text vector: a power of two that a third of the items bear."""
        return int(min(_WIDEST, 2 ** max(2, int(np.log2(max(1, self.items / 3))))))


def _first(candidates: Iterable[int], share: Callable[[int], float], least: float) -> int:
    last = 0
    for candidate in candidates:
        last = candidate
        if share(candidate) >= least:
            break
    return last


def liked_above(values: pl.Series) -> tuple[float, float]:
    """The value above which an interaction is liked, and the share that is: the middle of the scale, or, where hardly
    any or nearly all lie above it, the value whose share is closest to a half."""
    numbers = values.to_numpy().astype(np.float64)
    different = np.unique(numbers)
    shares = {float(value): float((numbers > value).mean()) for value in different[:-1]}
    middle = float(different[0] + different[-1]) / 2
    share = float((numbers > middle).mean())
    if _LEAST_LABEL <= share <= 1 - _LEAST_LABEL:
        return middle, share
    best = min(shares, key=lambda value: abs(shares[value] - 0.5))
    return best, shares[best]
