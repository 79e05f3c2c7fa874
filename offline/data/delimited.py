"""Delimited text files, read strictly: encoding, header, quotes and the shape of rows are checked.

polars parses, because it is fast. Whatever it may read in another way than it was meant goes through a strict reader as
well (strict_rows.py): files with quotes, with escapes, with rows of another length.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from offline.data.config import TableConfig
from offline.data.rules import Place, Problems
from offline.data.strict_rows import StrictReader, StrictReading

_UNIT = "\x1f"
"""Stands for a separator of several characters while a file is read; polars takes one byte only."""

_FEW_ROWS = 10
"""Rows below which nobody can tell whether a last line is odd."""


@dataclass(eq=False)
class _BrokenError(Exception):
    """A file is unreadable: a rule, a note, and the row if there is one."""

    rule: str
    note: str
    row: int | None = None


@dataclass(frozen=True, slots=True)
class DelimitedFile:
    """One file of a table; ``problems`` collects what is wrong with it."""

    path: Path
    table: TableConfig
    problems: Problems

    def read(self) -> tuple[pl.DataFrame, pl.Series] | None:
        """The rows of the file that have the right shape, every cell as text, and their numbers from 1; None if the
        file breaks a rule as a whole."""
        try:
            text, separator = self._decoded(), self.table.separator
            if "\r" in text[:65536] and "\n" not in text:
                raise _BrokenError("line_ends", "they end with \\r")
            if len(separator) > 1:
                text, separator = text.replace(separator, _UNIT), _UNIT
            names = list(self.table.header) or self._header(text[: 1 << 20], separator)
            frame, rows = self._parsed(self._with_escaped_nulls(text, separator), separator, names)
        except _BrokenError as broken:
            self.problems.add(broken.rule, Place(str(self.path), broken.row, note=broken.note))
            return None
        if not text.endswith(("\n", "\r")):
            self._check_last_line(frame, rows)
        return frame.drop("", strict=False), rows

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
            names = StrictReader(str(self.path), self.table, separator).header(head)
        except csv.Error as error:
            raise _BrokenError("quotes", f"in the header: {error}") from error
        marks = [mark for mark in ",;\t|:" if mark != self.table.separator and len(names) == 1 and mark in names[0]]
        if marks:
            shown = f"{self.table.separator!r} finds the one column {names[0]!r}, perhaps it is {marks[0]!r}"
            raise _BrokenError("separator", shown)
        if not names or "" in names[1:] or names == [""] or len(set(names)) != len(names):
            raise _BrokenError("header", f"columns are {names}")
        if names[0] == "":
            self.problems.add("index_column", Place(str(self.path), None, "", note=f"before {names[1]!r}"))
        return names

    def _with_escaped_nulls(self, text: str, separator: str) -> str:
        """The text with a null such as ``\\N`` escaped once more, so that it is read as it stands."""
        if not self.table.escape:
            return text
        for null in self.table.nulls:
            if null.startswith(self.table.escape):
                whole = rf"(?<![^{re.escape(separator)}\r\n]){re.escape(null)}(?![^{re.escape(separator)}\r\n])"
                text = re.sub(whole, lambda match: self.table.escape + match[0], text)
        return text

    def _parsed(self, text: str, separator: str, names: list[str]) -> tuple[pl.DataFrame, pl.Series]:
        """The rows of the right shape, and their numbers. What is wrong with the others is noted."""
        failure: pl.exceptions.PolarsError | None = None
        frame: pl.DataFrame | None = None
        if not self.table.escape:
            try:
                frame = self._by_polars(text, separator, names)
            except pl.exceptions.PolarsError as error:
                failure = error
        has_quotes = bool(self.table.quote) and self.table.quote in text
        # polars fills up rows that are too short, so an empty last field may be an absent one
        if frame is not None and not has_quotes and not bool((frame[names[-1]] == "").any()):
            return frame, self._numbers(len(frame))
        reader = StrictReader(str(self.path), self.table, separator)
        if frame is not None:
            reading = reader.look(text, len(names))
            if reading.sound and len(frame) == reading.rows:
                return frame, self._numbers(len(frame))
        reading = reader.rows(text, len(names))
        if failure is not None and reading.sound and not reading.cells:
            raise _BrokenError("file_damaged", first_line(failure)) from failure
        self._numbers(reading.rows)
        self._note(reading, cut=not text.endswith(("\n", "\r")))
        frame = pl.DataFrame(reading.cells, dict.fromkeys(names, pl.String), orient="row")
        return frame, pl.Series(reading.numbers, dtype=pl.Int64)

    def _numbers(self, count: int) -> pl.Series:
        """Numbers of the rows of a file, of which some may be bad."""
        self.problems.bad_rows.allow(str(self.path), self.table.bad_rows_at_most, count)
        return pl.int_range(1, count + 1, dtype=pl.Int64, eager=True)

    def _by_polars(self, text: str, separator: str, names: list[str]) -> pl.DataFrame:
        return pl.read_csv(
            io.BytesIO(text.encode()),
            has_header=not self.table.header,
            schema=dict.fromkeys(names, pl.String),
            separator=separator,
            quote_char=self.table.quote or None,
            empty_string_is_null=False,
            raise_if_empty=False,
        )

    def _note(self, reading: StrictReading, *, cut: bool) -> None:
        """Note what is wrong with rows. The shape of those after a broken quote is only a consequence of it."""
        if reading.unclosed:
            self.problems.add("quotes", *reading.unclosed)
        if reading.misshapen and (not reading.unclosed or str(self.path) in self.problems.bad_rows):
            last = reading.misshapen[-1]
            if cut and last.row == reading.rows:
                note = f"{last.note}; it is the last line, and has no end: was the file cut?"
                reading.misshapen[-1] = Place(last.file, last.row, None, last.value, note)
            self.problems.add("row_shape", *reading.misshapen)

    def _check_last_line(self, frame: pl.DataFrame, rows: pl.Series) -> None:
        """A last field that is shorter than all others of its column, in a line without an end, may have been cut."""
        if len(frame) < _FEW_ROWS:
            return
        column = frame.columns[-1]
        lengths = frame[column].str.len_chars()
        if lengths[-1] < lengths.head(-1).min():
            self.problems.add("last_line", Place(str(self.path), rows[-1], column, frame[column][-1]))


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
