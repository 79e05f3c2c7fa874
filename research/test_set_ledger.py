"""The ledger of test-set uses: one line of JSON per candidate that was ever scored on a test split, oldest first.

A candidate is a model under certain circumstances on a data set. Scoring it again, or more seeds of it, is no further
use; other scores of a seed that was scored before are, whatever the circumstances say. The file belongs into the
repository, so that the count survives the machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from models.contract.arrays import Array
from offline.data.catalogue import DataError


@dataclass(frozen=True, slots=True)
class Entry:
    """A line. ``fingerprint`` stands for the circumstances; ``scores`` maps each seed to a digest of what it answered
    on the test split; ``date`` is ISO 8601 in UTC."""

    date: str
    data: str
    model: str
    fingerprint: str
    scores: Mapping[str, str]
    command: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger in the file ``path``; new lines name ``command``. Methods raise DataError if it is damaged."""

    path: Path
    command: str = ""

    def record(self, data: str, model: str, fingerprint: str, scores: Mapping[str, str]) -> int:
        """Note that a candidate is scored, unless it was before; how many candidates of ``data`` were by now. The line
        is on disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two benchmarks at once must not both think themselves first
            file.seek(0)
            entries = self._parsed(file.read())
            date = datetime.now(UTC).isoformat(timespec="seconds")
            entry = Entry(date, data, model, fingerprint, dict(scores), self.command)
            seen = _candidates(entries).get((data, model, fingerprint), [])
            if not any(scores.items() <= before.items() for before in seen):
                file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
                entries.append(entry)
        return _count(entries, data)

    def count(self, data: str) -> int:
        """Number of candidates of ``data`` that were ever scored on its test split."""
        return _count(self._parsed(self.path.read_text(encoding="utf-8")), data) if self.path.is_file() else 0

    def _parsed(self, text: str) -> list[Entry]:
        entries = []
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            try:
                if not line.endswith("\n"):
                    raise ValueError("the line has no end")
                entries.append(Entry(**json.loads(line)))
            except (TypeError, ValueError) as error:
                raise DataError(f"{self.path}, line {number}, is no look at a test split: {error}") from error
        return entries


def score_digest(score: Array) -> str:
    """16 hex digits of the scores [n] of one seed, as ``Ledger.record`` takes them."""
    return hashlib.sha256(np.ascontiguousarray(score, np.float32).tobytes()).hexdigest()[:16]


def _count(entries: Iterable[Entry], data: str) -> int:
    return sum(len(candidates) for (of, _, _), candidates in _candidates(entries).items() if of == data)


def _candidates(entries: Iterable[Entry]) -> dict[tuple[str, str, str], list[dict[str, str]]]:
    """(data, model, fingerprint) -> the candidates of that name, each a digest by seed. A line is about the latest of
    them unless it says something else of a seed, which makes it another candidate."""
    known: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for entry in entries:
        candidates = known.setdefault((entry.data, entry.model, entry.fingerprint), [])
        if candidates and all(candidates[-1].get(seed, digest) == digest for seed, digest in entry.scores.items()):
            candidates[-1].update(entry.scores)
        else:
            candidates.append(dict(entry.scores))
    return known
