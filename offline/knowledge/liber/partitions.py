"""LIBER's user behaviour stream partition: which of a user's interactions belong to which closed partition.

Count-based trigger (our reading of the paper's condition): the cache of newest interactions becomes a partition as
soon as it holds ``size`` of them. Partition j of a user therefore holds interactions j*size .. (j+1)*size - 1 of
the log, and is immutable, because the log is append-only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.data.log import InteractionLog


@dataclass(frozen=True, slots=True)
class Partitions:
    """All closed partitions, grouped by user, oldest first.

    ``start`` [users + 1]: partitions ``start[u] .. start[u + 1] - 1`` belong to user u. ``rows`` [P, size]: their
    log rows. ``user`` [P]. ``closed_at`` [P]: the log row that closed each, its last one.
    """

    size: int
    start: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def closed_at(self) -> npt.NDArray[np.int64]:
        return self.rows[:, -1]

    def visible(self, user: npt.NDArray[np.int64], earlier: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many partitions of each user are closed when the user has ``earlier`` earlier interactions."""
        held = self.start[user + 1] - self.start[user]
        return np.asarray(np.minimum(earlier // self.size, held), np.int64)


def close_partitions(log: InteractionLog, size: int) -> Partitions:
    """Every partition that the log closes."""
    index = log.by_user()
    counts = np.diff(index.start) // size
    start = np.concatenate([[0], np.cumsum(counts)])
    rows = np.empty((int(start[-1]), size), np.int64)
    for user in np.flatnonzero(counts):
        mine = index.of_user(int(user))[: counts[user] * size]
        rows[start[user] : start[user + 1]] = mine.reshape(-1, size)
    return Partitions(size, start, rows, np.repeat(np.arange(len(counts)), counts))
