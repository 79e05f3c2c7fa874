"""Interactions that arrived since the last run, in the files of the data set and in the stream of the service; and
``--since TIME``: the users and items that have something new since then.

New is what arrived since then, whatever its own time says, or what happened since then, wherever it came from. When
rows arrived is noted beside the log whenever it grows; the first load of a data set is history and counts by its own
times only.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from models.contract.arrays import BoolArray
from offline.data.arrival import OF_FORGOTTEN, append_new, append_streamed
from offline.data.catalogue import Catalogue
from offline.data.dataset import Dataset
from offline.data.files import read_json, write_json
from offline.data.log import InteractionLog
from offline.data.log_settings import changed_settings
from offline.data.rebuild import Rebuilt, rebuilt
from offline.data.rules import Findings
from offline.jobs.steps import Job, StepCache
from offline.knowledge.liber.partitions import Partitions
from offline.publish.connection import Store
from offline.publish.streams import installation_of, new_interactions
from offline.publish.tombstones import Door, forgotten_users

_LONGEST_LIST = 20_000
"""Times at which a log grew that are remembered, at most."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(rf"(\d+)([{''.join(_UNITS)}])")


@dataclass(frozen=True, slots=True)
class Arrived:
    """The log as it should be, and as it was saved; how many interactions are new; how many entries of the stream were
    left out, by reason; and the findings on the data, none if they were looked at before and are unchanged.
    ``rebuilt`` says how the log was loaded anew, if it was."""

    log: InteractionLog
    before: InteractionLog | None
    added: int
    left_out: Counter[str]
    findings: Findings
    rebuilt: Rebuilt | None = None

    @property
    def summary(self) -> str:
        """For people."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        left_out = f"{self.left_out.total():,} left out" + (f" ({reasons})" if reasons else "")
        drawn = len(self.log) - len(self.log.observed)
        negatives = f", {drawn:,} drawn negatives" if drawn else ""
        return f"{len(self.log.observed):,} interactions, {self.added:,} of them new, {left_out}{negatives}"

    @property
    def grew(self) -> bool:
        """Whether there are more interactions or items than were saved; an item may come without interactions."""
        old, new = self.before, self.log
        return old is not None and (len(new) > len(old) or len(new.item_ids) > len(old.item_ids))


def look_for_events(
    job: Job, source: Dataset, catalogue: Catalogue, store: Store | None, findings: Findings | None = None
) -> Arrived:
    """The interactions that arrived in the files and in the stream, without those of users who are forgotten, whom the
    files may still have. ``findings`` are those of the source's check, if it was checked already. Saves nothing.
    DataError names every rule that the data break."""
    labels, schema = job.config.data.labels, job.config.feature_schema
    before, anew, added, left_out = None, None, 0, Counter[str]()
    if InteractionLog.is_saved(job.log):
        before = InteractionLog.load(job.log)
    log = InteractionLog.empty() if before is None else before
    forgotten = forgotten_users(store, job.config.workdir)
    door = Door(forgotten) if forgotten else None
    catalogue = forgotten.without(catalogue)
    if before is not None and (changed := changed_settings(before, job.config.data)):
        findings = findings or source.check(schema)
        anew = rebuilt(before, changed, source, catalogue, labels, schema, findings, door)
        log = anew.log
    elif before is None or not StepCache(job).is_current("events", {"source": source.fingerprint}):
        findings = findings or source.check(schema)
        log, added = append_new(log, source, catalogue, labels, schema, findings, door)
    if door is not None and door.refused:
        left_out[OF_FORGOTTEN] += door.refused
    if store is not None:
        stream = installation_of(store)
        # A mark in another stream says nothing of this one: it is read anew, and what the log holds is dropped.
        known = log.stream_mark if log.stream in ("", stream) else "0-0"
        entries, mark, refused = new_interactions(store, known)
        if mark != known:
            nobody = job.config.data.nobody
            log, appended, of_stream = append_streamed(log, entries, mark, labels, schema, nobody, door)
            left_out += of_stream
            log, added = replace(log, stream=stream), added + appended
        left_out += Counter({"not understood": refused})
    log = replace(log, settings=source.row_settings)  # those of an earlier version, which did not note them, are these
    return Arrived(log, before, added, left_out, findings or Findings(), anew)


class Arrivals:
    """When the log grew: [unix ms, rows before, items before] each time, oldest first, in one small file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[list[int]]:
        return list(read_json(self._path)) if self._path.is_file() else []

    def about_to_grow(self, log: InteractionLog) -> None:
        """Say it before the longer log is saved: a mark without rows does no harm, rows without a mark would be
        overlooked."""
        marks = [*self.all(), [round(time.time() * 1000), len(log), len(log.item_ids)]]
        write_json(self._path, marks[-_LONGEST_LIST:])

    def forget(self) -> None:
        """A log that is built anew has no arrivals."""
        self._path.unlink(missing_ok=True)


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
    """Users and items that ``--since`` is about. A job without it is about everything: do not ask."""
    assert job.since_ms is not None
    return Recent.of(log, Arrivals(job.arrivals).all(), job.since_ms)


def recent_users(job: Job, log: InteractionLog) -> list[int] | None:
    """Positions of the users that ``--since`` is about; None for all."""
    if job.since_ms is None:
        return None
    users: list[int] = np.flatnonzero(recent(job, log).users).tolist()
    return users
