"""LIBER's user behaviour stream partition: the closed partitions that a user's interactions belong to.

A user's newest interactions are a cache. It closes and becomes partition j (our reading of the paper's condition) when

    count   it holds ``size`` interactions; or
    span    the user's next interaction arrives whose time is more than ``span`` after that of the cache's first one

or at whichever comes first, or when somebody asks for it, which the log notes (``InteractionLog.closings``). Closing
depends on the log alone, never on the clock, so that every run agrees; and because
the log is append-only in order of arrival, a closed partition is immutable. An interaction that arrives late belongs to
the cache that is open when it arrives, whatever its own time says; it never reopens a partition.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import BoolArray, IntArray
from offline.data.log import InteractionLog


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a cache closes. ``size`` None: never by count; ``span_ms`` None: never by time. At least one is given."""

    size: int | None = None
    span_ms: int | None = None

    def __post_init__(self) -> None:
        if self.size is None and self.span_ms is None:
            raise ValueError("partitions need a size, a span, or both")


@dataclass(frozen=True, slots=True)
class Partitions:
    """All closed partitions, grouped by user, oldest first.

    ``start`` [users + 1]: partitions ``start[u] .. start[u + 1] - 1`` belong to user u. ``user`` [P]. Partition p holds
    the log rows ``rows[row_start[p]:row_start[p + 1]]``; ``closed_at`` [P] is the log row whose arrival closed it: its
    own last one if it closed by count or was asked for, the next one of its user if it closed by time.
    """

    start: IntArray
    user: IntArray
    rows: IntArray
    row_start: IntArray
    closed_at: IntArray

    def __len__(self) -> int:
        return len(self.user)

    def rows_of(self, partition: int) -> IntArray:
        """Log rows of one partition, in order of arrival."""
        return self.rows[self.row_start[partition] : self.row_start[partition + 1]]

    def first_of_user(self) -> BoolArray:
        """[P] whether a partition is its user's first, which has no predecessor to have shifted from."""
        return np.asarray(np.arange(len(self)) == self.start[self.user], np.bool_)


def close_partitions(log: InteractionLog, trigger: Trigger) -> Partitions:
    """Every partition that the log closes."""
    index, asked = log.by_user(), defaultdict[int, list[int]](list)
    for user, row in log.closings:
        asked[user].append(row)
    counts, lengths = np.zeros(len(log.user_ids), np.int64), list[int]()
    closers, members = list[IntArray](), list[IntArray]()
    for user in range(len(log.user_ids)):
        mine = index.of_user(user)
        ends, closed_at = _ends(log.time_ms[mine], mine, trigger, np.searchsorted(mine, asked.get(user, [])).tolist())
        members.append(mine[: ends[-1]] if len(ends) else mine[:0])
        lengths += np.diff(ends, prepend=0).tolist()
        closers.append(closed_at)
        counts[user] = len(ends)
    return Partitions(
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        user=np.repeat(np.arange(len(counts)), counts),
        rows=np.concatenate([*members, np.empty(0, np.int64)]),
        row_start=np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64),
        closed_at=np.concatenate([*closers, np.empty(0, np.int64)]),
    )


def _ends(times: IntArray, rows: IntArray, trigger: Trigger, asked: Sequence[int]) -> tuple[IntArray, IntArray]:
    """(end position of each closed partition among one user's rows, the log rows that closed them). ``asked``: end
    positions that somebody asked for."""
    if trigger.span_ms is None and trigger.size is not None and not asked:
        ends = np.arange(trigger.size, len(rows) + 1, trigger.size)
        return ends, rows[ends - 1]
    span_ms = math.inf if trigger.span_ms is None else trigger.span_ms
    positions, closers = list[int](), list[int]()
    first = 0
    for at in range(len(rows)):
        if at > first and times[at] - times[first] > span_ms:
            positions.append(at)
            closers.append(int(rows[at]))
            first = at
        if at + 1 - first == trigger.size or at + 1 in asked:
            positions.append(at + 1)
            closers.append(int(rows[at]))
            first = at + 1
    return np.array(positions, np.int64), np.array(closers, np.int64)
