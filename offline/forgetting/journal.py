"""What is found by key or position: the undo journal, the write cache, bad rows, errors in the ledger, and files that
killed runs left half written."""

from __future__ import annotations

import csv
import io
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.keys import owner_of
from models.contract.knowledge import KnowledgeRecord, RecordError
from models.contract.prefixes import own_folder
from models.contract.requests import Records
from offline.data.dataset import BAD_ROWS
from offline.data.files import write_bytes
from offline.data.log import InteractionLog
from offline.jobs.ledger import RunLedger
from offline.jobs.runs import LockedError, exclusive
from offline.jobs.steps import Job
from offline.publish.connection import Store, replay_prefix
from offline.publish.erasure import Removed, empty
from offline.publish.records import WRITE_CACHE_FOLDER
from offline.publish.undo import JOURNAL_FILE, Journal
from offline.store import shape_in_words

_OTHERS = frozenset(("exposures", "replay", "checkpoints"))
"""Folders that this job has not to itself, which have jobs of their own, or that hold nothing of users."""
WAIT_SECONDS, _BETWEEN_SECONDS = 60.0, 0.1
"""Longest wait for a job that holds such a folder, and time between two looks."""
_VALUE = "value"
"""Column of lists of bad rows, until 2026-11-30: what stood there."""
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names of files that ``offline.data.files`` had begun to write."""


def journaled_users(job: Job) -> set[str]:
    """Users of whom the undo journal has records."""
    users = set[str]()
    for path in _journals(job):
        with Journal(path) as journal:
            users.update(user for key in journal.journaled_keys() if (user := owner_of(key, "u")) is not None)
    return users


def remove_from_journal(job: Job, _: InteractionLog, users: Collection[str], removed: Removed) -> None:
    """Remove the records of these users, also from the file's bytes."""
    for path in _journals(job):
        with Journal(path) as journal:
            keys = [(key, user) for key in journal.journaled_keys() if (user := owner_of(key, "u")) in users and user]
            journal.remove([key for key, _ in keys])
            removed.update((user, "undo journal") for _, user in keys)


def journal_records(job: Job, _: InteractionLog, user: str) -> Records:
    """Former knowledge of a user in the undo journal."""
    records = list[Any]()
    for path in _journals(job):
        with Journal(path) as journal:
            for key in journal.journaled_keys():
                if owner_of(key, "u") == user:
                    records += [_former(key, user, *row) for row in journal.records(key)]
    return {"undo journal": records}


def _former(key: str, user: str, publication: int, old: bytes | None) -> dict[str, Any]:
    """A record of the journal; its bytes, if it is damaged."""
    space = key.rpartition(":")[2]
    entry: dict[str, Any] = {"publication": publication, "space": space, "before": None}
    if old is not None:
        try:
            record = KnowledgeRecord.unpack(old, user, space)
        except RecordError:
            return entry | {"before": {"damaged": old.hex()}}
        entry["before"] = {
            "written_at": record.written_at, "expires_at": record.expires_at, "codes": list(record.codes),
            "vectors": shape_in_words(record.vectors),
        }  # fmt: skip
    return entry


def remove_from_write_cache(job: Job, log: InteractionLog, users: Collection[str], _: Removed) -> None:
    """Let the write cache know nothing of these users, by their numbers in the log."""
    at = np.array([number for number, name in enumerate(log.user_ids) if name in users], np.int64)
    for path in _digests_of_users(job):
        table = np.lib.format.open_memmap(path, mode="r+")
        table[at[at < len(table)]] = 0
        table.flush()


def write_cache_records(job: Job, log: InteractionLog, user: str) -> Records:
    """Digests of what was published of a user last."""
    records = []
    number = log.user_ids.index(user) if user in log.user_ids else None
    for path in _digests_of_users(job) if number is not None else ():
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if number is not None and number < len(table) and (entry := table[number : number + 1].tobytes()).strip(b"\0"):
            records.append({"file": path.name, "digest": entry.hex()})
    return {"digests of publications": records}


def _digests_of_users(job: Job) -> list[Path]:
    return sorted(path for folder in _publishers(job) for path in (folder / WRITE_CACHE_FOLDER).glob("user-*.npy"))


def _journals(job: Job) -> list[Path]:
    return [path for folder in _publishers(job) if (path := folder / JOURNAL_FILE).is_file()]


def _publishers(job: Job) -> tuple[Path, Path]:
    """The folders of what publishes: of the jobs, and of a replay, which has a prefix of its own."""
    return job.config.workdir, job.config.workdir / "replay"


def remove_from_bad_rows(job: Job, _: InteractionLog, users: Collection[str], removed: Removed) -> None:
    """Cut what stands in bad rows out of a list that an earlier version wrote: a whole row may stand in one cell."""
    header, *lines = _bad_rows(job) or [[]]
    if _VALUE in header:
        at = header.index(_VALUE)
        removed.update(
            (user, "bad rows") for line in lines for user in users if _quotes("".join(line[at : at + 1]), user)
        )
        text = io.StringIO(newline="")
        csv.writer(text).writerows(line[:at] + line[at + 1 :] for line in (header, *lines))
        write_bytes(job.raw / BAD_ROWS, text.getvalue().encode("utf-8"))


def bad_row_records(job: Job, _: InteractionLog, user: str) -> Records:
    """The lines that name a user."""
    header, *lines = _bad_rows(job) or [[]]
    named = (dict(zip(header, line, strict=False)) for line in lines)
    return {"bad rows": [line for line in named if _quotes(line.get(_VALUE, ""), user)]}


def _quotes(words: str, user: str) -> bool:
    """Whether words are an id, or have it in quotes."""
    return words == user or repr(user) in words


def _bad_rows(job: Job) -> list[list[str]]:
    """All lines, the header first; none without a file."""
    path = job.raw / BAD_ROWS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def remove_from_ledger(job: Job, _: InteractionLog, users: Collection[str], removed: Removed) -> None:
    """Leave the kinds of the errors that ended runs alone: an earlier version wrote words that quote data, cut short,
    so that nobody can tell whose."""
    ledger = RunLedger(job.config.workdir)
    removed.update((user, "errors of runs") for line in ledger.failures() for user in users if _named(line, user))
    ledger.cut_failures()


def ledger_records(job: Job, _: InteractionLog, user: str) -> Records:
    """Words of errors that name a user."""
    lines = RunLedger(job.config.workdir).failures()
    named = [{"run": line.get("run"), "reasons": line["reasons"]} for line in lines if _named(line, user)]
    return {"errors of runs": named}


def _named(line: Mapping[str, Any], user: str) -> bool:
    return any(_quotes(str(reason), user) for reason in line["reasons"])


def remove_half_written(job: Job, *_: object) -> None:
    """Remove what killed runs left in the work folder and in that of the last replay, which this job has to itself."""
    for folder in _publishers(job):
        for path in half_written(folder, _OTHERS):
            path.unlink(missing_ok=True)


def half_written_records(job: Job, *_: object) -> Records:
    """Names and sizes of the same files, of which nobody can tell whose they are."""
    paths = sorted(path for folder in _publishers(job) for path in half_written(folder, _OTHERS))
    return {"files of killed runs, of whomever": file_records(job, paths)}


@contextmanager
def without_replay(job: Job, store: Store | None) -> Iterator[None]:
    """Hold the folder of replays, if there is one: a replay that goes on would write anew, of the log that it has read,
    whoever is removed meanwhile. What former ones left under their prefix and in their embedded server goes: one that
    was killed left all, and of one that ended the files of its server hold what was deleted. LockedError if one goes
    on.

    A job holds its work folder before, and folders of archives within: whoever holds several takes them in this order.
    """
    replay = _publishers(job)[1]
    if not replay.is_dir():
        yield
        return
    with alone(replay):
        prefix = replay_prefix(job.config.name)
        if store is not None:
            empty(store, prefix)
        if (server := own_folder(job.data_dir / "replay" / "valkey", prefix)).is_dir():
            shutil.rmtree(server)
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder that other jobs may hold, too. LockedError if it is not free within WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with exclusive(folder, "forget"):
                yield
            return
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_BETWEEN_SECONDS)


def remove_reranker_scores(job: Job, log: InteractionLog, users: Collection[str], _: Removed) -> None:
    """Remove all log-odds of a reranker's prompts if one of these users has rows in the log: they lie by a hash of the
    prompt, which quotes a history."""
    if not set(users).isdisjoint(log.user_ids):
        shutil.rmtree(_reranker_scores(job), ignore_errors=True)


def reranker_score_records(job: Job, log: InteractionLog, user: str) -> Records:
    """Names and sizes of the same files, of which nobody can tell which numbers are of whom."""
    paths = sorted(path for path in _reranker_scores(job).rglob("*") if path.is_file()) if user in log.user_ids else []
    return {"reranker scores, of whomever": file_records(job, paths)}


def _reranker_scores(job: Job) -> Path:
    return job.config.workdir / "reranker" / "scores"


def file_records(job: Job, paths: Iterable[Path]) -> list[Any]:
    """Names in the work folder, and sizes, of files that are still there."""
    records = list[Any]()
    for path in paths:
        with suppress(FileNotFoundError):  # whoever writes it has renamed it
            records.append({"file": str(path.relative_to(job.config.workdir)), "bytes": path.stat().st_size})
    return records


def half_written(folder: Path, others: Collection[str] = ()) -> Iterator[Path]:
    """What killed runs left below a folder, if there is one, but in folders of the names ``others``."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and path.name not in others:
            yield from half_written(path, others)
        elif path.is_file() and _TEMPORARY.fullmatch(path.name):
            yield path
