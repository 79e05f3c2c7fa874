"""Rows of delimited text as a strict reader finds them: the csv module's, which knows in which row a quote opens.

A record that breaks off, or whose quoted field has swallowed rows, is bad in its first line alone; the next record
begins at the next line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

from offline.data.config import TableConfig
from offline.data.rules import Place

_LONG = 10
"""Lines of a quoted field that is taken for swallowed rows if nearly all of them look like rows."""

_LONGEST = 10_000
"""Lines after which a quoted field counts as never closed."""


class _Lines:
    """Lines of a text for a csv reader, which gives those of a record once more, from its second one on."""

    def __init__(self, text: str) -> None:
        self._source = io.StringIO(text, newline="")
        self._again: list[str] = []
        self._read = 0
        self.record: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.record) >= _LONGEST:
            raise csv.Error(f"a quoted field runs over more than {_LONGEST:,} lines")
        line = self._again.pop() if self._again else next(self._source)
        self.record.append(line)
        return line

    @property
    def first(self) -> int:
        """Number of the line that the current record begins with."""
        return self._read

    def begin(self) -> None:
        """A new record begins."""
        self._read += len(self.record)
        self.record.clear()

    def read_on_from_the_second(self) -> None:
        self._again += reversed(self.record[1:])
        del self.record[1:]


@dataclass(slots=True)
class StrictReading:
    """What a strict reader makes of a file: ``rows`` without the header, the sound ones with their numbers if they are
    collected, and what is wrong. ``swallowing``: first lines of records whose quoted field holds rows."""

    rows: int = 0
    cells: list[list[str]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    misshapen: list[Place] = field(default_factory=list)
    unclosed: list[Place] = field(default_factory=list)
    swallowing: frozenset[int] = frozenset()

    @property
    def sound(self) -> bool:
        return not (self.misshapen or self.unclosed or self.swallowing)


@dataclass(frozen=True, slots=True)
class StrictReader:
    """Reader of one file, whose columns are parted by ``separator``."""

    file: str
    table: TableConfig
    separator: str

    def header(self, head: str) -> list[str]:
        """The first record of a text. csv.Error if it is none."""
        return next(self._csv_reader(_Lines(head)), [])

    def rows(self, text: str, fields: int) -> StrictReading:
        """All sound rows of a text, collected."""
        reading = self.look(text, fields)
        while True:
            known = reading.swallowing
            reading = self.look(text, fields, known, collect=True)
            if reading.swallowing == known:
                return reading

    def look(
        self, text: str, fields: int, swallowing: frozenset[int] = frozenset(), *, collect: bool = False
    ) -> StrictReading:
        """What is in a text of rows with so many fields. Records that begin at the lines ``swallowing`` have a quote
        too many."""
        reading, spread = StrictReading(), _SpreadRecords(self.table.quote, self.separator, fields)
        lines, number = _Lines(text), 0 if self.table.header else -1
        for cells in self._records(lines, swallowing):
            number += 1
            if isinstance(cells, str):
                reading.unclosed.append(Place(self.file, number, None, lines.record[0].rstrip(), cells))
                continue
            if len(lines.record) > 1:
                spread.add(lines)
            if number == 0:
                continue
            if cells and len(cells) != fields:
                reading.misshapen.append(Place(self.file, number, None, cells, f"{len(cells)} fields, not {fields}"))
            elif collect:
                reading.cells.append(cells or [""] * fields)
                reading.numbers.append(number)
        reading.rows = max(0, number)
        reading.swallowing = swallowing | spread.swallowing()
        return reading

    def _records(self, lines: _Lines, swallowing: frozenset[int]) -> Iterator[list[str] | str]:
        """Cells of each record; or why there are none, and then the next one begins at the next line."""
        records = self._csv_reader(lines)
        while True:
            lines.begin()
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                lines.read_on_from_the_second()
                yield str(error)
                continue
            if lines.first in swallowing:
                count = len(lines.record)
                lines.read_on_from_the_second()
                yield f"the quoted field that begins here runs over {count} lines that look like rows"
            else:
                yield cells

    def _csv_reader(self, lines: _Lines) -> Iterator[list[str]]:
        csv.field_size_limit(2**31 - 1)  # of the whole process; the default refuses long texts
        escape = self.table.escape or None
        if not self.table.quote:
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, escapechar=escape)
        return csv.reader(lines, delimiter=self.separator, quotechar=self.table.quote, escapechar=escape, strict=True)


class _SpreadRecords:
    """Records of several lines, and which of them are rows that a quote has swallowed.

    A text of several lines is no fault. But lines that all have as many separators as a row are rows: if they are many,
    or if that is so of half of the records that are spread over lines; with two columns few lines prove nothing.
    """

    def __init__(self, quote: str, separator: str, fields: int) -> None:
        self._quote, self._separator, self._fields = quote, separator, fields
        self._count = 0
        self._certain: set[int] = set()
        self._likely: set[int] = set()

    def add(self, lines: _Lines) -> None:
        """The current record."""
        if not self._quote or self._quote not in "".join(lines.record):
            return
        self._count += 1
        separators = self._fields - 1
        like_rows = sum(line.count(self._separator) == separators for line in lines.record)
        if len(lines.record) >= _LONG and like_rows >= 0.9 * len(lines.record) and separators:
            self._certain.add(lines.first)
        elif like_rows == len(lines.record) and separators > 1:
            self._likely.add(lines.first)

    def swallowing(self) -> frozenset[int]:
        """Lines that such records begin with."""
        return frozenset(self._certain | (self._likely if 2 * len(self._likely) >= self._count else set()))
