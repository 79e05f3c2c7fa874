"""What is found by key or position: the undo journal, the write cache, lists of bad rows, and files that killed runs
left half written."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from models.contract.keys import owner_of
from offline.data.dataset import BAD_ROWS
from offline.data.files import write_bytes
from offline.jobs.steps import Job
from offline.publish.erasure import Removed
from offline.publish.records import WRITE_CACHE_FOLDER
from offline.publish.undo import JOURNAL_FILE, Journal

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names of files that ``offline.data.files`` had begun to write."""


def journaled_users(job: Job) -> set[str]:
    """Users of whom the undo journal has records."""
    path = job.config.workdir / JOURNAL_FILE
    if not path.is_file():
        return set()
    with Journal(path) as journal:
        return {user for key in journal.journaled_keys() if (user := owner_of(key, "u")) is not None}


def remove_from_journal(job: Job, users: Collection[str], removed: Removed) -> None:
    """Remove the records of these users, also from the file's bytes."""
    path = job.config.workdir / JOURNAL_FILE
    if path.is_file():
        with Journal(path) as journal:
            keys = [(key, user) for key in journal.journaled_keys() if (user := owner_of(key, "u")) in users and user]
            journal.remove([key for key, _ in keys])
            removed.update((user, "undo journal") for _, user in keys)


def remove_from_write_cache(job: Job, numbers: Mapping[str, int]) -> None:
    """Let the write cache know nothing of these users, by their numbers in the log."""
    at = np.array(sorted(numbers.values()), np.int64)
    for path in (job.config.workdir / WRITE_CACHE_FOLDER).glob("user-*.npy"):
        table = np.lib.format.open_memmap(path, mode="r+")
        table[at[at < len(table)]] = 0
        table.flush()


def remove_from_bad_rows(job: Job, users: Collection[str], removed: Removed) -> None:
    """Remove the lines that name one of these users."""
    path = job.raw / BAD_ROWS
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    left = [line for line in lines if not set(users).intersection(line)]
    if len(left) < len(lines):
        removed.update((user, "bad rows") for line in lines for user in set(users).intersection(line))
        text = io.StringIO(newline="")
        csv.writer(text).writerows(left)
        write_bytes(path, text.getvalue().encode("utf-8"))


def remove_half_written(job: Job) -> None:
    """Remove what killed runs left in the work folder, which this job has to itself."""
    for path in _half_written(job.config.workdir, {"exposures", "replay", "checkpoints"}):
        path.unlink(missing_ok=True)


def _half_written(folder: Path, others: Collection[str]) -> Iterator[Path]:
    for path in list(folder.iterdir()):
        if path.is_dir() and path.name not in others:
            yield from _half_written(path, others)
        elif path.is_file() and _TEMPORARY.fullmatch(path.name):
            yield path
