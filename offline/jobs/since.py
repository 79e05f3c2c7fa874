"""``--since TIME``: the users and items that have something new since then.

New is what arrived since then, whatever its own time says, or what happened since then, wherever it came from. When
rows arrived is noted beside the log whenever it grows; the first load of a data set is history and counts by its own
times only.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from models.contract.arrays import BoolArray
from offline.data.log import InteractionLog
from offline.jobs.events import Arrivals
from offline.jobs.steps import Job
from offline.knowledge.liber.partitions import Partitions

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(rf"(\d+)([{''.join(_UNITS)}])")


def parse_since(text: str, now: float | None = None) -> int:
    """Unix milliseconds of "7d", "12h" (before now), or of an ISO 8601 date or time, UTC unless it says. ValueError if
    it is neither."""
    if match := _AGE.fullmatch(text.strip()):
        age = int(match[1]) * _UNITS[match[2]]
        return round(((time.time() if now is None else now) - age) * 1000)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: 2026-11-20, 2026-11-20T06:00, 45m, 12h or 7d") from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Recent:
    """Masks over the users and items of a log."""

    users: BoolArray
    items: BoolArray

    @classmethod
    def of(cls, log: InteractionLog, arrivals: Sequence[Sequence[int]], since_ms: int) -> Recent:
        users, items = np.zeros(len(log.user_ids), np.bool_), np.zeros(len(log.item_ids), np.bool_)
        touched = [log.since(time_ms=since_ms)]
        first = next((mark for mark in arrivals if mark[0] >= since_ms), None)
        if first is not None:
            touched.append(log.since(row=first[1]))
            items[first[2] :] = True
        for rows in touched:
            users[rows.users] = True
            items[rows.items] = True
        return cls(users, items)

    def item_ids(self, log: InteractionLog) -> list[str]:
        return [log.item_ids[at] for at in np.flatnonzero(self.items)]

    def partitions_of(self, partitions: Partitions) -> Partitions:
        """The partitions of recent users alone."""
        of_recent = self.users[partitions.user]
        sizes = np.diff(partitions.row_start)
        counts = np.where(self.users, np.diff(partitions.start), 0)
        return replace(
            partitions,
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            user=partitions.user[of_recent],
            rows=partitions.rows[np.repeat(of_recent, sizes)],
            row_start=np.concatenate([[0], np.cumsum(sizes[of_recent])]).astype(np.int64),
            closed_at=partitions.closed_at[of_recent],
        )


def recent(job: Job, log: InteractionLog) -> Recent:
    """What ``--since`` is about. A job without it is about everything: do not ask."""
    assert job.since_ms is not None
    return Recent.of(log, Arrivals(job.arrivals).all(), job.since_ms)


def recent_users(job: Job, log: InteractionLog) -> list[int] | None:
    """Positions of the users that ``--since`` is about; None for all."""
    if job.since_ms is None:
        return None
    users: list[int] = np.flatnonzero(recent(job, log).users).tolist()
    return users
