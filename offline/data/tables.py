"""Tables of text and Parquet files, read strictly: what is damaged or ambiguous is noted with its place, never guessed.

Of text files encoding, header, quotes and the shape of rows are checked: polars parses, because it is fast; the csv
module finds the place of what polars only complains about. Text columns come as strings, whatever they look like;
Parquet columns keep their types. What columns mean is the business of the callers (columns.py).
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from offline.data.config import TableConfig
from offline.data.files import file_digest
from offline.data.rules import SHOWN, Place, Problems

_TEXT = {".csv", ".tsv", ".txt", ".dat"}
_PARQUET = {".parquet", ".pq"}
_UNIT = "\x1f"
"""Stands for a separator of several characters while a file is read; polars takes one byte only."""


@dataclass(frozen=True, slots=True)
class Cells:
    """One column of one file. ``rows`` are data row numbers from 1, aligned with ``values``."""

    file: str
    column: str
    rows: pl.Series
    values: pl.Series

    def flag(self, problems: Problems, rule: str, broken: pl.Series) -> None:
        """Note the rows where ``broken`` is true; null counts as false."""
        mask = broken.fill_null(False)
        count = int(mask.sum())
        if count:
            rows, values = self.rows.filter(mask).head(SHOWN), self.values.filter(mask).head(SHOWN)
            places = [
                Place(self.file, row, self.column, "" if value is None else value)
                for row, value in zip(rows.to_list(), values.to_list(), strict=True)
            ]
            problems.add(rule, *places, count=count)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one file."""

    file: str
    frame: pl.DataFrame
    rows: pl.Series

    @classmethod
    def of(cls, path: Path, frame: pl.DataFrame) -> Part:
        return cls(str(path), frame, pl.int_range(1, len(frame) + 1, dtype=pl.Int64, eager=True))

    def cells(self, column: str, problems: Problems) -> Cells | None:
        """A column, or None (and a problem) if the file lacks it."""
        if column not in self.frame.columns:
            columns = ", ".join(repr(name) for name in self.frame.columns[:20])
            problems.add("missing_column", Place(self.file, None, column, note=f"columns are {columns}"))
            return None
        return Cells(self.file, column, self.rows, self.frame[column])

    def where(self, mask: pl.Series) -> Part:
        return Part(self.file, self.frame.filter(mask), self.rows.filter(mask))


def read(table: TableConfig, problems: Problems) -> list[Part]:
    """One part per readable file."""
    parts = []
    for path in paths(table, problems):
        kind = (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()
        if kind in _PARQUET:
            part = _parquet(path, problems)
        elif kind in _TEXT:
            part = _text(path, table, problems)
        else:
            part = None
            problems.add("file_damaged", Place(str(path), note=f"no known kind of file: {kind or 'no suffix'}"))
        if part is not None:
            parts.append(part)
    return parts


def state(tables: Iterable[TableConfig]) -> dict[str, str]:
    """SHA-256 of every file of the tables, by path."""
    return {str(path): file_digest(path) for table in tables for path in paths(table, Problems())}


def paths(table: TableConfig, problems: Problems) -> list[Path]:
    """The files of a table, each once."""
    named: list[Path] = []
    for pattern in table.paths:
        matches = sorted(glob.glob(pattern, recursive=True)) if "*" in pattern else [pattern]
        files = [Path(name) for name in matches if Path(name).is_file()]
        if not files:
            problems.add("file_absent", Place(pattern))
        named += files
    return list(dict.fromkeys(named))


def _parquet(path: Path, problems: Problems) -> Part | None:
    try:
        frame = pl.read_parquet(path, hive_partitioning=False)
        frame = frame.cast({pl.Categorical: pl.String, pl.Enum: pl.String})
    except (pl.exceptions.PolarsError, OSError) as error:
        problems.add("file_damaged", Place(str(path), note=first_line(error)))
        return None
    return Part.of(path, frame)


def _text(path: Path, table: TableConfig, problems: Problems) -> Part | None:
    frame = _DelimitedFile(path, table, problems).read()
    if frame is None:
        return None
    part = Part.of(path, frame)
    blank = frame.select(pl.all_horizontal(pl.all() == "")).to_series()
    if bool(blank.any()):
        first = frame.columns[0]
        Cells(part.file, first, part.rows, frame[first]).flag(problems, "blank_row", blank)
        part = part.where(~blank)
    nulled = pl.when(pl.all().is_in(list(table.nulls))).then(None).otherwise(pl.all()).name.keep()
    return Part(part.file, part.frame.with_columns(nulled), part.rows)


@dataclass(eq=False)
class _BrokenError(Exception):
    """A file is unreadable: a rule, a note, and the row if there is one."""

    rule: str
    note: str
    row: int | None = None


@dataclass(frozen=True, slots=True)
class _DelimitedFile:
    """One file of a table; ``problems`` collects what is wrong with it."""

    path: Path
    table: TableConfig
    problems: Problems

    def read(self) -> pl.DataFrame | None:
        """All rows of the file, every cell as text; None if the file breaks a rule."""
        try:
            text, separator = self._decoded(), self.table.separator
            if "\r" in text[:65536] and "\n" not in text:
                raise _BrokenError("line_ends", "they end with \\r")
            if len(separator) > 1:
                text, separator = text.replace(separator, _UNIT), _UNIT
            names = list(self.table.header) or self._header(text[: 1 << 20], separator)
            return self._parsed(text, separator, names)
        except _BrokenError as broken:
            self.problems.add(broken.rule, Place(str(self.path), broken.row, note=broken.note))
            return None

    def _decoded(self) -> str:
        try:
            with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file:
                content = file.read()
        except (OSError, EOFError, zlib.error) as error:
            raise _BrokenError("file_damaged", first_line(error)) from error
        encoding = codecs.lookup(self.table.encoding).name
        if encoding == "utf-8" and content.startswith(codecs.BOM_UTF8):
            self.problems.add("byte_order_mark", Place(str(self.path)))
            encoding = "utf-8-sig"
        if not encoding.startswith("utf-16") and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise _BrokenError("encoding", f"not {self.table.encoding}, it looks like utf-16")
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            row = content.count(b"\n", 0, error.start) + bool(self.table.header)
            shown = f"not {self.table.encoding}: {content[max(0, error.start - 12) : error.start + 4]!r}"
            raise _BrokenError("encoding", shown, row or None) from error
        if not encoding.startswith("utf") and not text.isascii() and _is_utf8(content):
            raise _BrokenError("encoding", f"not {self.table.encoding}, it reads as utf-8")
        return text

    def _header(self, head: str, separator: str) -> list[str]:
        try:
            names = next(self._records(head, separator), [])
        except csv.Error as error:
            raise _BrokenError("quotes", f"in the header: {error}") from error
        marks = [mark for mark in ",;\t|:" if mark != self.table.separator and len(names) == 1 and mark in names[0]]
        if marks:
            shown = f"{self.table.separator!r} finds the one column {names[0]!r}, perhaps it is {marks[0]!r}"
            raise _BrokenError("separator", shown)
        if not names or "" in names or len(set(names)) != len(names):
            raise _BrokenError("header", f"columns are {names}")
        return names

    def _parsed(self, text: str, separator: str, names: list[str]) -> pl.DataFrame | None:
        try:
            frame = pl.read_csv(
                io.BytesIO(text.encode()),
                has_header=not self.table.header,
                schema=dict.fromkeys(names, pl.String),
                separator=separator,
                quote_char=self.table.quote or None,
                empty_string_is_null=False,
                raise_if_empty=False,
            )
        except pl.exceptions.PolarsError as error:
            if not self._has_bad_rows(text, separator, len(names)):
                raise _BrokenError("file_damaged", first_line(error)) from error
            return None
        # polars fills up rows that are too short, so an empty last field may be an absent one
        if bool((frame[names[-1]] == "").any()) and self._has_bad_rows(text, separator, len(names)):
            return None
        return frame

    def _has_bad_rows(self, text: str, separator: str, fields: int) -> bool:
        """Whether some row has too few or too many fields, or a quote that is never closed; they are noted."""
        misshapen: list[Place] = []
        unclosed = False
        number = 0 if self.table.header else -1
        try:
            for record in self._records(text, separator):
                number += 1
                if record and len(record) != fields:
                    misshapen.append(Place(str(self.path), number, None, record, f"{len(record)} fields, not {fields}"))
        except csv.Error as error:
            self.problems.add("quotes", Place(str(self.path), number + 1, note=str(error)))
            unclosed = True
        if misshapen:
            self.problems.add("row_shape", *misshapen[:SHOWN], count=len(misshapen))
        return bool(misshapen) or unclosed

    def _records(self, text: str, separator: str) -> Iterator[list[str]]:
        csv.field_size_limit(2**31 - 1)  # of the whole process; the default refuses long texts
        lines = io.StringIO(text, newline="")
        if not self.table.quote:
            return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
        return csv.reader(lines, delimiter=separator, quotechar=self.table.quote, strict=True)


def _is_utf8(content: bytes) -> bool:
    """For text beyond ASCII: no text of another encoding happens to be valid UTF-8 throughout."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """The message of an error, without its advice on the library's own settings."""
    return str(error).strip().split("\n")[0] or type(error).__name__
