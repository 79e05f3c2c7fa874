"""One text file of rows and separators, read strictly: encoding, header, quotes and the shape of rows are all checked.

polars parses, because it is fast; the csv module finds the place of what polars only complains about.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from offline.data.config import TableConfig
from offline.data.rules import SHOWN, Place, Problems

_UNIT = "\x1f"
"""Stands for a separator of several characters while a file is read; polars takes one byte only."""


class _BrokenError(Exception):
    """What makes a file unreadable: a rule, a note, and the row if there is one."""

    def __init__(self, rule: str, note: str, row: int | None = None) -> None:
        super().__init__(rule, note, row)
        self.rule, self.note, self.row = rule, note, row


@dataclass(frozen=True, slots=True)
class DelimitedFile:
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
    """What an error says, without its advice on the library's own settings."""
    return str(error).strip().split("\n")[0] or type(error).__name__
