"""The ledger of looks at a test split: one line of JSON per candidate that was ever scored on it, oldest first.

A candidate is a model under certain circumstances on a data set. Judging it again, or more seeds of it, is no further
look; other scores of a seed that was judged before are, whatever the circumstances say. The file belongs into the
repository, so that the count survives the machine.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from offline.data.catalogue import DataError


@dataclass(frozen=True, slots=True)
class Look:
    """One line. ``fingerprint`` stands for the circumstances; ``scores`` maps each seed to a digest of what it answered
    on the test split; ``date`` is ISO 8601 in UTC."""

    date: str
    data: str
    model: str
    fingerprint: str
    scores: Mapping[str, str]
    command: str


def look(path: Path, data: str, model: str, fingerprint: str, scores: Mapping[str, str], command: str = "") -> int:
    """Note that a candidate is judged, unless it was before; how many candidates of ``data`` were by now.

    The line is on disk before this returns. DataError if the ledger is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two benchmarks at once must not both think themselves first
        file.seek(0)
        entries = _parsed(path, file.read())
        known = _known(entries)
        entry = Look(datetime.now(UTC).isoformat(timespec="seconds"), data, model, fingerprint, dict(scores), command)
        seen = known.get((data, model, fingerprint), [])
        if not any(scores.items() <= before.items() for before in seen):
            file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            entries.append(entry)
    return _count(entries, data)


def looks(path: Path, data: str) -> int:
    """How many candidates of ``data`` were ever judged on its test split; DataError if the ledger is damaged."""
    return _count(_parsed(path, path.read_text(encoding="utf-8")), data) if path.is_file() else 0


def _count(entries: Iterable[Look], data: str) -> int:
    return sum(len(candidates) for (of, _, _), candidates in _known(entries).items() if of == data)


def _known(entries: Iterable[Look]) -> dict[tuple[str, str, str], list[dict[str, str]]]:
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


def _parsed(path: Path, text: str) -> list[Look]:
    entries = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            if not line.endswith("\n"):
                raise ValueError("the line has no end")
            entries.append(Look(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {number}, is no look at a test split: {error}") from error
    return entries
