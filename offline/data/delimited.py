"""One text file of rows and separators, read strictly: encoding, header, quotes and the shape of rows are all checked.

polars parses, because it is fast; the csv module finds the place of what polars only complains about.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from offline.data.config import TableConfig
from offline.data.rules import SHOWN, Place, Problems

_UNIT = "\x1f"
"""Stands for a separator of several characters while a file is read; polars takes one byte only."""


def read_delimited(path: Path, table: TableConfig, problems: Problems) -> pl.DataFrame | None:
    """All rows of the file, every cell as text; None if the file breaks a rule."""
    text = _decoded(path, table, problems)
    if text is None:
        return None
    if "\r" in text[:65536] and "\n" not in text:
        problems.add("line_ends", Place(str(path), note="they end with \\r"))
        return None
    separator = table.separator
    if len(separator) > 1:
        text, separator = text.replace(separator, _UNIT), _UNIT
    names = list(table.header) or _header(path, table, text[: 1 << 20], separator, problems)
    return None if names is None else _parsed(path, table, text, separator, names, problems)


def _decoded(path: Path, table: TableConfig, problems: Problems) -> str | None:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        problems.add("file_damaged", Place(str(path), note=first_line(error)))
        return None
    encoding = codecs.lookup(table.encoding).name
    if encoding == "utf-8" and content.startswith(codecs.BOM_UTF8):
        problems.add("byte_order_mark", Place(str(path)))
        encoding = "utf-8-sig"
    if not encoding.startswith("utf-16") and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        problems.add("encoding", Place(str(path), note=f"not {table.encoding}, it looks like utf-16"))
        return None
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + bool(table.header)
        shown = f"not {table.encoding}: {content[max(0, error.start - 12) : error.start + 4]!r}"
        problems.add("encoding", Place(str(path), row or None, note=shown))
        return None
    if not encoding.startswith("utf") and not text.isascii() and _is_utf8(content):
        problems.add("encoding", Place(str(path), note=f"not {table.encoding}, it reads as utf-8"))
        return None
    return text


def _is_utf8(content: bytes) -> bool:
    """For text beyond ASCII: no text of another encoding happens to be valid UTF-8 throughout."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header(path: Path, table: TableConfig, head: str, separator: str, problems: Problems) -> list[str] | None:
    try:
        names = next(iter(_records(head, separator, table.quote)), [])
    except csv.Error as error:
        problems.add("quotes", Place(str(path), note=f"in the header: {error}"))
        return None
    others = [mark for mark in ",;\t|:" if mark != table.separator and len(names) == 1 and mark in names[0]]
    if others:
        shown = f"{table.separator!r} finds the one column {names[0]!r}, perhaps it is {others[0]!r}"
        problems.add("separator", Place(str(path), note=shown))
        return None
    if not names or "" in names or len(set(names)) != len(names):
        problems.add("header", Place(str(path), note=f"columns are {names}"))
        return None
    return names


def _parsed(
    path: Path, table: TableConfig, text: str, separator: str, names: list[str], problems: Problems
) -> pl.DataFrame | None:
    try:
        frame = pl.read_csv(
            io.BytesIO(text.encode()),
            has_header=not table.header,
            schema=dict.fromkeys(names, pl.String),
            separator=separator,
            quote_char=table.quote or None,
            empty_string_is_null=False,
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError as error:
        if not _note_bad_rows(path, table, text, separator, names, problems):
            problems.add("file_damaged", Place(str(path), note=first_line(error)))
        return None
    # polars fills up rows that are too short, so an empty last field may be an absent one
    if bool((frame[names[-1]] == "").any()) and _note_bad_rows(path, table, text, separator, names, problems):
        return None
    return frame


def _note_bad_rows(
    path: Path, table: TableConfig, text: str, separator: str, names: list[str], problems: Problems
) -> bool:
    """Whether some row has too few or too many fields, or a quote that is never closed."""
    misshapen: list[Place] = []
    unclosed = False
    number = 0 if table.header else -1
    records = iter(_records(text, separator, table.quote))
    while True:
        number += 1
        try:
            record = next(records, None)
        except csv.Error as error:
            problems.add("quotes", Place(str(path), number, note=str(error)))
            unclosed = True
            break
        if record is None:
            break
        if record and len(record) != len(names):
            misshapen.append(Place(str(path), number, None, record, f"{len(record)} fields, not {len(names)}"))
    if misshapen:
        problems.add("row_shape", *misshapen[:SHOWN], count=len(misshapen))
    return bool(misshapen) or unclosed


def _records(text: str, separator: str, quote: str) -> Iterable[list[str]]:
    csv.field_size_limit(2**31 - 1)  # of the whole process; the default refuses long texts
    lines = io.StringIO(text, newline="")
    if not quote:
        return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=separator, quotechar=quote, strict=True)


def first_line(error: BaseException) -> str:
    """What an error says, without its advice on the library's own settings."""
    return str(error).strip().split("\n")[0] or type(error).__name__
