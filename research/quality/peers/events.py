"""What users really did, grouped by user, and histories that are cut from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract.arrays import BoolArray, FloatArray, IntArray
from offline.data.log import InteractionLog, UserIndex

BLOCK = 1 << 16
"""Samples that are cut at once: indices of a million long histories would take gigabytes."""


@dataclass(frozen=True, slots=True)
class Events:
    """Observed interactions [m]; user u's are at ``start[u]:start[u + 1]``, in the order of the log.

    item, value  [m] 0-based number of the log, and value
    trained      [m] whether it is of the training period
    items        number of items
    """

    start: IntArray
    item: IntArray
    value: FloatArray
    trained: BoolArray
    items: int

    @classmethod
    def of(cls, log: InteractionLog, index: UserIndex, trained_rows: int) -> Events:
        """The events of a log whose first ``trained_rows`` rows are the training period."""
        item, value = log.item[index.rows].astype(np.int64), log.value[index.rows]
        return cls(index.start, item, value, index.rows < trained_rows, len(log.item_ids))

    def last(self, user: IntArray, earlier: IntArray, length: int) -> tuple[npt.NDArray[np.int32], FloatArray]:
        """Item + 1 and value [n, length] of the last events among the first ``earlier`` [n] of each ``user`` [n],
        oldest first, 0 for padding at the end."""
        items, values = np.zeros((len(user), length), np.int32), np.zeros((len(user), length), np.float32)
        steps = np.arange(length)[None]
        for at in range(0, len(user), BLOCK):
            block = slice(at, at + BLOCK)
            count = np.minimum(earlier[block], length)
            inside = steps < count[:, None]
            places = np.where(inside, (self.start[user[block]] + earlier[block] - count)[:, None] + steps, 0)
            items[block] = np.where(inside, self.item[places] + 1, 0)
            values[block] = np.where(inside, self.value[places], 0.0)
        return items, values
