"""A log that is loaded anew, because settings that decide which rows the files have were changed.

Rows of the files are as the files and the new settings say. What the service streamed is in no file: it is taken over,
and after it, the stream is read from its beginning once more, where it may hold what repeated a row of the files.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.contract.ids import is_nobody
from models.contract.schema import FeatureSchema
from offline.data.arrival import Forbids, append_new, draw_negatives
from offline.data.catalogue import Catalogue, DataError
from offline.data.config import LabelsConfig
from offline.data.dataset import Dataset
from offline.data.log import InteractionLog
from offline.data.rules import Findings, counted


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A log that was loaded anew, because of the settings ``changed``, in place of the log ``former``. ``left_out``
    counts streamed interactions that the new settings leave out."""

    log: InteractionLog
    former: InteractionLog
    changed: tuple[str, ...]
    left_out: int

    @property
    def summary(self) -> str:
        """For people."""
        streamed = sum(1 for _ in streamed_rows(self.log))
        before, from_files = len(self.former.observed), len(self.log.observed) - streamed
        left_out = f", {self.left_out:,} left out" if self.left_out else ""
        return (
            f"{', '.join(self.changed)} changed, so the log is loaded anew: {counted(before, 'interaction')} before, "
            f"now {from_files:,} of the files and {streamed:,} that the service streamed{left_out}"
        )


def rebuilt(
    former: InteractionLog,
    changed: Collection[str],
    source: Dataset,
    catalogue: Catalogue,
    labels: LabelsConfig,
    schema: FeatureSchema,
    findings: Findings | None = None,
    forbids: Forbids | None = None,
) -> Rebuilt:
    """The log of the files, followed by what the service streamed into the ``former`` one, without what ``forbids``
    says of. Its stream is to be read from the beginning. DataError if nobody knows which rows those are, or if the data
    break a rule."""
    if former.streamed is None:
        raise DataError(
            f"{', '.join(sorted(changed))} changed, and the log of interactions is of an earlier version, which did "
            "not note what the service streamed: take the change back, or move the folder `log` of the work folder "
            "away, and the next refresh loads it anew, from the files and the last million events of the stream"
        )
    log, _ = append_new(InteractionLog.empty(), source, catalogue, labels, schema, findings, forbids)
    of_files, nobody = len(log), source.nobody
    every = list(streamed_rows(former))
    accepted = [
        row for row in every if not (is_nobody(row[0], nobody) or is_nobody(row[1], nobody)) and schema.accepts(row[2])
    ]
    if forbids is not None:
        accepted = [row for row in accepted if not forbids(row[0], row[3])]
    grown, _ = log.with_arrived(accepted)
    grown = draw_negatives(labels, grown, schema.liked_above, of_files).noting_streamed(of_files)
    return Rebuilt(replace(grown, stream=former.stream), former, tuple(sorted(changed)), len(every) - len(accepted))


def streamed_rows(log: InteractionLog) -> Iterator[tuple[str, str, float, int]]:
    """(user, item, value, time_ms) of what the service streamed, in order of arrival."""
    for first, end in log.streamed or ():
        for row in (first + np.flatnonzero(~log.sampled[first:end])).tolist():
            user, item = log.user_ids[log.user[row]], log.item_ids[log.item[row]]
            yield user, item, float(log.value[row]), int(log.time_ms[row])


def copy_beside(folder: Path) -> Path:
    """A copy of the log in ``folder`` beside it, named by the time: only it has the rows of files that are gone."""
    to = folder.with_name(f"{folder.name}-before-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to
