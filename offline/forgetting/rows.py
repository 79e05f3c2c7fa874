"""What is numbered by rows or users of the log, without users who are forgotten, replaced together.

New files are written beside the old ones first; once all are there, each takes the place of its old one. A run that is
killed before that has changed nothing, and of one that is killed after it the next run puts the rest in place: row
numbers of one log never meet those of another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.contract.arrays import BoolArray
from models.contract.requests import Records
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays, write_bytes, write_json
from offline.data.log import COLUMNS, MANIFEST, InteractionLog, RowShift
from offline.jobs.events import Arrivals
from offline.jobs.steps import Job
from offline.knowledge.vectors import FORMER, Lineage, Produced, UserVectors
from offline.publish.erasure import Removed
from offline.store import shape_in_words
from offline.training.report import TrainingError, TrainingReport
from offline.training.retraining import Retraining
from offline.training.samples import split_samples

if TYPE_CHECKING:  # it loads polars
    from offline.data.texts_import import ImportedTexts

STAGING = "forgetting"
"""Folder, inside a work folder, of the new files; ``_READY`` says that all are there."""

_READY = "ready"
_PREDICTIONS = "test_predictions.npz"
_REPORT = "report.json"
_RETRAIN = "not known: users were forgotten"
"""A digest that no log has: a report with it makes the next refresh train."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Rows [n] of the ``former`` log that go, and numbers of the users who are forgotten; the new ``log``."""

    former: InteractionLog
    log: InteractionLog
    rows: BoolArray
    users: Mapping[str, int]

    @classmethod
    def of(cls, former: InteractionLog, until_ms: Mapping[str, int], arrived: Callable[[int], int]) -> Removal:
        """What of a log is of these users and happened, or ``arrived``, until their times (unix ms): clocks of callers
        run ahead. ``arrived`` tells how many of the rows had surely arrived at a time."""
        users = numbers_of(former, until_ms)
        until = np.full(len(former.user_ids), -1, np.int64)
        until[list(users.values())] = [until_ms[user] for user in users]
        first = np.zeros(len(former.user_ids), np.int64)
        first[list(users.values())] = [arrived(until_ms[user]) for user in users]
        rows = (former.time_ms <= until[former.user]) | (np.arange(len(former)) < first[former.user])
        left = np.bincount(former.user[~rows], minlength=len(former.user_ids))
        gone = {number for number in users.values() if not left[number]}
        return cls(former, former.without(rows, gone), rows, users)

    @property
    def shift(self) -> RowShift:
        return RowShift.of(self.rows)

    def counts(self, store: str) -> Removed:
        """Observed rows by user."""
        counts = np.bincount(self.former.user[self.rows & ~self.former.sampled], minlength=len(self.former.user_ids))
        return Removed({(user, store): int(counts[number]) for user, number in self.users.items() if counts[number]})


def _arrived(folder: Path, arrivals: Arrivals | None, time_ms: int) -> int:
    """How many rows of the log in a folder had surely arrived at a time: those before the first growth since, or all of
    a log that was not written since."""
    for at_ms, rows, _ in [] if arrivals is None else arrivals.all():
        if at_ms > time_ms:
            return int(rows)
    manifest = folder / MANIFEST
    is_older = manifest.is_file() and manifest.stat().st_mtime_ns // 1_000_000 <= time_ms
    return len(InteractionLog.load(folder)) if is_older else 0


def numbers_of(log: InteractionLog, until_ms: Mapping[str, int]) -> dict[str, int]:
    """Numbers of those of the users whom the log knows."""
    return {name: number for number, name in enumerate(log.user_ids) if name in until_ms}


def finish_removal(job: Job) -> None:
    """Put the rest of the new files in place, if a run was killed that had all of them; throw away what one left that
    had not."""
    staging = job.config.workdir / STAGING
    if (staging / _READY).is_file():
        _put_in_place(job, staging)
    shutil.rmtree(staging, ignore_errors=True)


def remove_rows(job: Job, _: InteractionLog, until_ms: Mapping[str, int], removed: Removed) -> None:
    """Remove these users until their times (unix ms) from all that is numbered by the log."""
    finish_removal(job)
    staging = job.config.workdir / STAGING
    if InteractionLog.is_saved(job.log):
        removal = Removal.of(InteractionLog.load(job.log), until_ms, partial(_arrived, job.log, Arrivals(job.arrivals)))
        removed.update(removal.counts("interactions in the log"))
        if removal.users:
            _stage_numbered(job, removal, staging, removed)
    else:
        removal = Removal.of(InteractionLog.empty(), {}, lambda _: 0)
    _stage_imported(job, removal, until_ms, staging, removed)
    if staging.is_dir():
        write_bytes(staging / _READY, b"")
        finish_removal(job)


def row_records(job: Job, log: InteractionLog, user: str) -> Records:
    """What ``remove_rows`` removes, of one user."""
    imported = _imported(job)
    texts = () if imported is None else imported.users
    records: Records = {
        "interactions in the log": _interactions(log, user),
        "closed partitions": [{"before_row": row} for number, row in log.closings if log.user_ids[number] == user],
        "knowledge versions": [],
        "knowledge texts": [],
        "predictions": [],
        "imported texts": [asdict(version) for version in texts if version.user == user],
    }
    for folder in produced_folders(job):
        name, produced = folder.name, Produced.load(folder)
        for each in (produced, produced.former):
            if each is not None:
                records["knowledge versions"] += _versions(name, each, log, user)
                if user in each.texts:
                    records["knowledge texts"].append({"producer": name, "text": each.texts[user]})
    if user in log.user_ids and (job.models / _REPORT).is_file() and (job.models / _PREDICTIONS).is_file():
        records["predictions"] = _predictions(job, log, log.user_ids.index(user))
    return records


def _interactions(log: InteractionLog, user: str) -> list[Any]:
    """Rows of a user, also those that were drawn."""
    if user not in log.user_ids:
        return []
    return [
        {"item_id": log.item_ids[log.item[row]], "value": float(log.value[row]), "time_ms": int(log.time_ms[row]),
         **({"drawn": True} if log.sampled[row] else {})}
        for row in np.flatnonzero(log.user == log.user_ids.index(user)).tolist()
    ]  # fmt: skip


def _versions(producer: str, produced: Produced, log: InteractionLog, user: str) -> list[Any]:
    users, lineage = produced.users, produced.lineage
    if users is None or user not in log.user_ids:
        return []
    if lineage is None or not lineage.fits(log):
        return [{"producer": producer, "unreadable": "of another log: nobody can tell which vectors are whose"}]
    number = log.user_ids.index(user)
    first, end = users.start[number : number + 2].tolist() if number < len(users.start) - 1 else (0, 0)
    codes = None if users.codes is None else users.codes.tolist()
    return [
        {"producer": producer, "space": users.space.fingerprint, "since_row": int(users.since[at]),
         "vector": shape_in_words(users.vectors[at]), "codes": None if codes is None else codes[at]}
        for at in range(first, end)
    ]  # fmt: skip


def _predictions(job: Job, log: InteractionLog, number: int) -> list[Any]:
    """Test predictions of the last training, if it was on this log."""
    report, arrays = TrainingReport.load(job.models / _REPORT), read_arrays(job.models / _PREDICTIONS)
    if report.log not in ("", log.digest(report.log_rows)):
        return []
    rows = arrays.pop("rows")
    return [
        {"item_id": log.item_ids[log.item[row]], "time_ms": int(log.time_ms[row])}
        | {name: float(column[at]) for name, column in arrays.items()}
        for at, row in enumerate(rows.tolist())
        if log.user[row] == number
    ]


def remove_from_copies(job: Job, _: InteractionLog, until_ms: Mapping[str, int], removed: Removed) -> None:
    """Remove the same from the copies of former logs that a log which was loaded anew left beside it. One that cannot
    be read goes."""
    for folder in former_logs(job):
        try:
            removal = Removal.of(InteractionLog.load(folder), until_ms, partial(_arrived, folder, None))
        except DataError:
            shutil.rmtree(folder)
            continue
        removed.update(removal.counts("former logs"))
        if removal.users:
            removal.log.save(folder)


def copy_records(job: Job, _: InteractionLog, user: str) -> Records:
    """What copies of former logs have of a user."""
    records: list[Any] = []
    for folder in former_logs(job):
        try:
            rows = _interactions(InteractionLog.load(folder), user)
        except DataError as error:
            rows = [{"unreadable": str(error)}]
        records += [{"copy": folder.name, **row} for row in rows]
    return {"former logs": records}


def former_logs(job: Job) -> list[Path]:
    """Folders of copies of former logs, whole or not."""
    return [path for path in sorted(job.log.parent.glob(f"{job.log.name}-before-*")) if path.is_dir()]


def produced_folders(job: Job) -> list[Path]:
    """Folders of the producers that have made anything."""
    return [path for path in sorted(job.knowledge.glob("*")) if Produced.is_saved(path)]


def _stage_numbered(job: Job, removal: Removal, staging: Path, removed: Removed) -> None:
    shift, workdir = removal.shift, job.config.workdir
    removal.log.save(staging / job.log.name)
    if job.arrivals.is_file():
        marks = [[time_ms, shift(rows), items] for time_ms, rows, items in Arrivals(job.arrivals).all()]
        write_json(staging / job.arrivals.name, marks)
    for folder in produced_folders(job):
        to = staging / folder.relative_to(workdir)
        produced = Produced.load(folder)
        if produced.lineage is not None and produced.lineage.fits(removal.former):
            _without(produced, removal, removed).save(to)
        else:  # of another log: nobody can tell whose it is, and it is made again
            Produced().save(to)
    if (job.models / _REPORT).is_file():
        _stage_training(job, removal, staging / job.models.relative_to(workdir))
    rows = int((removal.rows & ~removal.former.sampled).sum())
    Retraining.load(workdir).with_removed(len(removal.users), rows).save(staging)


def _without(produced: Produced, removal: Removal, removed: Removed) -> Produced:
    """Knowledge without that of the users, in the numbers of the new log."""
    users, lineage, former = produced.users, produced.lineage, produced.former
    if users is not None:
        for name, number in removal.users.items():
            if number < len(users.start) - 1:
                removed[name, "knowledge versions"] += int(users.start[number + 1] - users.start[number])
    lacking = former is None or former.lineage is None or not former.lineage.fits(removal.former)
    return replace(
        produced,
        users=None if users is None else _versions_without(users, removal),
        texts={name: text for name, text in produced.texts.items() if name not in removal.users},
        lineage=None if lineage is None else Lineage.of(removal.log, lineage.users, lineage.items),
        former=None if lacking or former is None else _without(former, removal, Removed()),
    )


def _versions_without(vectors: UserVectors, removal: Removal) -> UserVectors:
    count = len(vectors.start) - 1
    owner = np.repeat(np.arange(count), np.diff(vectors.start))
    left = ~np.isin(owner, list(removal.users.values()))
    return UserVectors(
        vectors.space,
        vectors.vectors[left],
        np.concatenate([[0], np.cumsum(np.bincount(owner[left], minlength=count))]).astype(np.int64),
        removal.shift.each(vectors.since[left] + 1) - 1,
        None if vectors.codes is None else vectors.codes[left],
    )


def _stage_training(job: Job, removal: Removal, to: Path) -> None:
    """The report and the test predictions of the last training, which counts as one on the log without the users: no
    deletion makes a refresh train, and validation samples are those of the log that is left."""
    report, shift = TrainingReport.load(job.models / _REPORT), removal.shift
    if report.log not in ("", removal.former.digest(report.log_rows)):
        return  # of a log that was loaded anew since: it does not count any more
    log, rows = removal.log, shift(report.log_rows)
    columns = {name: getattr(log, name)[:rows] for name in COLUMNS}
    try:
        ends = InteractionLog.of(log.user_ids, log.item_ids, columns, log.stream_mark, log.part_ends)
        splits = split_samples(job.config.samples, ends)
        moved = replace(
            report,
            log_rows=rows,
            log=log.digest(rows),
            trained_rows=splits.trained_rows,
            trained_until_ms=int(log.time_ms[splits.trained_rows - 1]),
            samples={split: len(of_split) for split, of_split in splits.rows.items()},
        )
    except (DataError, TrainingError, IndexError):  # too little is left
        moved = replace(report, log_rows=rows, log=_RETRAIN)
    moved.save(to / _REPORT)
    if (job.models / _PREDICTIONS).is_file():
        arrays = read_arrays(job.models / _PREDICTIONS)
        left = ~removal.rows[arrays["rows"]]
        arrays = {name: column[left] for name, column in arrays.items()}
        write_arrays(to / _PREDICTIONS, **{**arrays, "rows": shift.each(arrays["rows"])})


def _stage_imported(job: Job, removal: Removal, until_ms: Mapping[str, int], staging: Path, removed: Removed) -> None:
    """The imported texts without those about the users, which tell no time."""
    if (texts := _imported(job)) is None:
        return
    removed.update((version.user, "imported texts") for version in texts.users if version.user in until_ms)
    left = [
        replace(version, from_row=removal.shift(version.from_row))
        for version in texts.users
        if version.user not in until_ms
    ]
    if len(left) < len(texts.users) or removal.users:
        replace(texts, users=tuple(left)).save(staging / job.imported.name)


def imported_users(job: Job) -> set[str]:
    """Users about whom there are imported texts."""
    texts = _imported(job)
    return set() if texts is None else {version.user for version in texts.users}


def _imported(job: Job) -> ImportedTexts | None:
    if not job.imported.is_file():
        return None
    from offline.data.texts_import import ImportedTexts

    return ImportedTexts.load(job.imported)


def _put_in_place(job: Job, staging: Path) -> None:
    """Put the new files in place of the old ones; safe to repeat."""
    workdir = job.config.workdir
    if InteractionLog.is_saved(staging / job.log.name):
        InteractionLog.load(staging / job.log.name).save(job.log)
    for path in _files(staging):
        target = workdir / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    for folder in (staging / job.knowledge.name).glob("*"):
        if not (folder / FORMER).is_dir():  # it was of another log
            shutil.rmtree(job.knowledge / folder.name / FORMER, ignore_errors=True)
    (staging / _READY).unlink()


def _files(staging: Path) -> Iterator[Path]:
    """The new files but those of the log, which ``save`` puts in place, and the mark."""
    for path in sorted(staging.rglob("*")):
        first = path.relative_to(staging).parts[0]
        if path.is_file() and first not in ("log", _READY):
            yield path
