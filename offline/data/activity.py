"""How many interactions users have, and the settings that follow: which samples count, when a partition closes.

`init` writes these numbers, and `validate` names them where a configuration has others that use hardly anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import IntArray

PARTITION_SIZES = (50, 30, 20, 10, 5)
"""The largest first: a longer partition says more, and asks less."""
_HISTORIES = (5, 3, 2, 1, 0)
_LEAST_ROWS, _LEAST_USERS = 0.5, 0.3
"""Shares of interactions that become samples, and of users with a partition, that the first fitting number reaches."""


@dataclass(frozen=True, slots=True)
class Activity:
    """``per_user`` [users]: interactions of each who has any."""

    per_user: IntArray

    def used(self, min_history: int) -> float:
        """Share of interactions that have ``min_history`` earlier ones of their user."""
        return float(np.maximum(self.per_user - min_history, 0).sum() / max(1, self.per_user.sum()))

    def covered(self, partition_size: int) -> float:
        """Share of users with a closed partition."""
        return float((self.per_user >= partition_size).mean()) if len(self.per_user) else 0.0

    def partitions(self, size: int) -> int:
        """Partitions of all users: each is a question to the language model."""
        return int((self.per_user // size).sum())

    @property
    def min_history(self) -> int:
        """The longest history that half of the interactions have before them; 0 if hardly anybody comes again."""
        return _first(_HISTORIES, self.used, _LEAST_ROWS)

    @property
    def partition_size(self) -> int:
        """The largest partition that three of ten users fill; the smallest if none is so small."""
        return _first(PARTITION_SIZES, self.covered, _LEAST_USERS)


def _first(candidates: Iterable[int], share: Callable[[int], float], least: float) -> int:
    last = 0
    for candidate in candidates:
        last = candidate
        if share(candidate) >= least:
            break
    return last
