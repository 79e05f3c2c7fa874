"""Pairs that the matching network learns from: interactions with the user version that was visible at that moment.

Honest in time: a pair of log row r uses the newest version of its user that closed at a row before r.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from offline.data.log import InteractionLog


@dataclass(frozen=True, slots=True)
class Pairs:
    """Columns of equal length n in log order: ``version`` and ``item`` index the states, ``row`` is the log row,
    ``liked`` is 0 or 1."""

    version: IntArray
    item: IntArray
    row: IntArray
    liked: FloatArray

    def __len__(self) -> int:
        return len(self.row)

    def at(self, which: BoolArray | IntArray | slice) -> Pairs:
        """The pairs of a mask, of positions, or of a slice."""
        return Pairs(self.version[which], self.item[which], self.row[which], self.liked[which])

    def parted(self, share: float) -> tuple[Pairs, Pairs]:
        """The earlier pairs and the last ``share`` of them."""
        first = len(self) - int(len(self) * share)
        return self.at(slice(None, first)), self.at(slice(first, None))


def visible_version(user: IntArray, row: IntArray, start: IntArray, closed_at: IntArray) -> IntArray:
    """Per log row the newest version of its user that closed before it, -1 where there is none.

    ``user`` and ``row`` [n]; versions [V] are grouped by user in ``start`` [users + 1], oldest first.
    """
    owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
    rows = int(max(row.max(initial=0), closed_at.max(initial=0))) + 1
    moments = owner * rows + closed_at  # rises: by user, then by time
    newest = np.searchsorted(moments, user.astype(np.int64) * rows + row, side="left") - 1
    owned = np.append(owner, -1)[newest] == user  # position -1 reads the appended owner
    return np.where(owned, newest, -1).astype(np.int64)


def training_pairs(
    log: InteractionLog, trained_rows: int, liked_above: float, start: IntArray, since: IntArray, known: BoolArray
) -> Pairs:
    """Interactions of the training period that people had with items that have a text, each with the newest version of
    its user before it. Versions are as in ``UserVectors``; ``known`` [items] have a text."""
    row = np.flatnonzero(~log.sampled[:trained_rows]).astype(np.int64)
    version = visible_version(log.user[row].astype(np.int64), row, start, since)
    whole = (version >= 0) & known[log.item[row]]
    row, version = row[whole], version[whole]
    return Pairs(version, log.item[row].astype(np.int64), row, (log.value[row] > liked_above).astype(np.float32))


def so_far(states: FloatArray, start: IntArray) -> FloatArray:
    """Per version the mean of its user's states up to and with it, float32 [V, D]; versions are grouped by ``start``.

    Depends on the user's earlier versions only, in a fixed order, so a version's mean never changes by a bit.
    """
    means = np.empty_like(states)
    for first, end in pairwise(start.tolist()):
        sums = np.cumsum(states[first:end], axis=0, dtype=np.float64)
        means[first:end] = sums / np.arange(1, end - first + 1)[:, None]
    return means
