"""Times that cannot be right beside the others: one that broke off, a clock that was never set, another unit."""

from __future__ import annotations

import numpy as np

from models.contract.arrays import IntArray

_FAR_MS = 20 * 365 * 86_400_000
"""20 years: no period of interactions has such a gap."""


def far_times(times: IntArray) -> IntArray:
    """Places of the times that a gap of 20 years or more parts from the median; of three times or more."""
    if len(times) < 3:
        return np.zeros(0, np.int64)
    order = np.argsort(times, kind="stable")
    group = np.concatenate([[0], np.cumsum(np.diff(times[order]) >= _FAR_MS)])
    return np.sort(order[group != group[(len(times) - 1) // 2]])
