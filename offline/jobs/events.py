"""What arrived since the last run: in the files of the data set, and in the stream that the service writes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from offline.data.arrival import append_new, append_streamed, first_log
from offline.data.catalogue import Catalogue
from offline.data.dataset import Dataset
from offline.data.files import read_json, write_json
from offline.data.log import InteractionLog
from offline.jobs.steps import Job, StepCache
from offline.publish.connection import Store
from offline.publish.streams import new_interactions

_KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Arrived:
    """The log as it should be, and as it was saved; how many interactions are new, how many stream entries refused."""

    log: InteractionLog
    before: InteractionLog | None
    added: int
    refused: int

    @property
    def grew(self) -> bool:
        """Whether there are more interactions or items than were saved; an item may come without interactions."""
        old, new = self.before, self.log
        return old is not None and (len(new) > len(old) or len(new.item_ids) > len(old.item_ids))


def look_for_events(job: Job, source: Dataset, catalogue: Catalogue, store: Store | None) -> Arrived:
    """What arrived in the files and in the stream. Saves nothing."""
    labels, schema = job.config.data.labels, job.config.feature_schema
    before, added, refused = None, 0, 0
    if not InteractionLog.is_saved(job.log):
        log = first_log(source, catalogue, labels, schema)
        added = len(log)
    else:
        log = before = InteractionLog.load(job.log)
        if not StepCache(job).is_current("events", {"source": source.fingerprint}):
            log, added = append_new(log, source, catalogue, labels, schema)
    if store is not None:
        entries, mark, refused = new_interactions(store, log.stream_mark)
        log, appended, out_of_range = append_streamed(log, entries, mark, labels, schema)
        added, refused = added + appended, refused + out_of_range
    return Arrived(log, before, added, refused)


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
        write_json(self._path, marks[-_KEPT:])

    def forget(self) -> None:
        """A log that is built anew has no arrivals."""
        self._path.unlink(missing_ok=True)
