"""Rows that break a rule, in files that may have some: up to the share that ``bad_rows_at_most`` states, they are left
out, counted, and listed in a file by rule and place, so that nothing is lost without a word."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from offline.data.files import write_bytes

if TYPE_CHECKING:  # rules.py collects what this module counts
    from offline.data.rules import Place

Breach = tuple[str, "Place"]
"""A rule, and the place where it is broken."""

TOO_MANY, SKIPPED = "bad_rows", "row_skipped"
"""The rules that tell of bad rows: an error, and a warning."""

_HEADER = ("rule", "file", "row", "column", "note")


@dataclass(slots=True)
class _File:
    """A file that may have bad rows: the share, its rows, the breaches by row, and by rule how many more there are."""

    share: float
    rows: int
    breaches: dict[int, list[Breach]] = field(default_factory=dict)
    uncounted: Counter[str] = field(default_factory=Counter)

    @property
    def limit(self) -> int:
        return int(self.share * self.rows)

    @property
    def exceeded(self) -> bool:
        return len(self.breaches) > self.limit

    @property
    def count(self) -> str:
        """The number of bad rows in words; the least that there are, where breaches were only counted."""
        of_rules = Counter(rule for breaches in self.breaches.values() for rule in {rule for rule, _ in breaches})
        least = max([len(self.breaches), *(of_rules + self.uncounted).values()])
        return f"at least {least}" if self.uncounted.total() else str(least)


class BadRows:
    """Bad rows by file. Only files that may have some are in here; what is wrong with others is an error."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def allow(self, file: str, share: float, rows: int) -> None:
        """Say that a share of the ``rows`` of a file may break rules."""
        if share > 0:
            self._files.setdefault(file, _File(share, rows))

    def __contains__(self, file: str) -> bool:
        return file in self._files

    @property
    def most(self) -> int:
        """The number of rows that may be bad in all files together."""
        return sum(file.limit for file in self._files.values())

    def add(self, rule: str, place: Place) -> None:
        """Note a breach in a file that may have some."""
        assert place.row is not None
        self._files[place.file].breaches.setdefault(place.row, []).append((rule, place))

    def add_uncounted(self, rule: str, file: str, count: int) -> None:
        """Note that so many further rows of a file break a rule. It has more bad rows than it may have already."""
        self._files[file].uncounted[rule] += count

    def include(self, other: BadRows) -> None:
        """Take over what another collection holds."""
        for name, theirs in other._files.items():
            mine = self._files.setdefault(name, _File(theirs.share, theirs.rows))
            for row, breaches in theirs.breaches.items():
                mine.breaches.setdefault(row, []).extend(breaches)
            mine.uncounted.update(theirs.uncounted)

    def of(self, file: str) -> frozenset[int]:
        """Numbers of the bad rows of a file."""
        return frozenset(self._files[file].breaches) if file in self._files else frozenset()

    def skipped(self) -> list[Breach]:
        """The breaches of files that keep to their share, by file and row."""
        return [breach for file in self._files.values() if not file.exceeded for breach in _listed(file)]

    def errors(self) -> list[Breach]:
        """The breaches of files that have more than their share."""
        return [breach for file in self._files.values() if file.exceeded for breach in _listed(file)]

    def uncounted(self) -> Counter[str]:
        """By rule, how many more breaches those files have."""
        return sum((file.uncounted for file in self._files.values() if file.exceeded), Counter())

    def excess(self) -> dict[str, str]:
        """What is too much, by file."""
        return {
            name: f"{file.count} of {file.rows} rows are bad, {file.limit} may be"
            for name, file in self._files.items()
            if file.exceeded
        }


def _listed(file: _File) -> list[Breach]:
    return [breach for row in sorted(file.breaches) for breach in file.breaches[row]]


def write_bad_rows(path: Path, skipped: Sequence[Breach]) -> None:
    """Replace the list of rows that were left out, a line for each breach; without any there is no file. It quotes no
    data: a broken row may be of anybody, also of somebody who is forgotten, whom the source has still."""
    if not skipped:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(_HEADER)
    lines.writerows((rule, place.file, place.row, place.column, place.note) for rule, place in skipped)
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))


def bad_rows_note(path: Path) -> str:
    """How many rows the list names, as a run says it; "" without a list."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        rows = {(entry["file"], entry["row"]) for entry in csv.DictReader(file)}
    return f", {len(rows)} bad rows left out, listed in {path}"
