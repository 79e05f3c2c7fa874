"""Tables of text and Parquet files, read strictly: what is damaged or ambiguous is noted with its place, never guessed.

Text columns come as strings, whatever they look like (delimited.py); Parquet columns keep their types. What columns
mean is the business of the callers (columns.py).
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from offline.data.config import TableConfig
from offline.data.delimited import DelimitedFile, first_line
from offline.data.files import file_digest
from offline.data.rules import Place, Problems

_TEXT = {".csv", ".tsv", ".txt", ".dat"}
_PARQUET = {".parquet", ".pq"}
KINDS = ".csv, .tsv, .txt, .dat (also with .gz), .parquet"


@dataclass(frozen=True, slots=True)
class Cells:
    """One column of one file. ``rows`` are data row numbers from 1, aligned with ``values``; in texts, ``decimal``
    stands before the fraction of a number."""

    file: str
    column: str
    rows: pl.Series
    values: pl.Series
    decimal: str = "."

    def flag(self, problems: Problems, rule: str, broken: pl.Series) -> None:
        """Note the rows where ``broken`` is true; null counts as false."""
        mask = broken.fill_null(False)
        count = int(mask.sum())
        if count:
            rows, values = (column.filter(mask).head(problems.shown) for column in (self.rows, self.values))
            places = [
                Place(self.file, row, self.column, "" if value is None else value)
                for row, value in zip(rows.to_list(), values.to_list(), strict=True)
            ]
            problems.add(rule, *places, count=count)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one file; in texts, ``decimal`` stands before the fraction of a number."""

    file: str
    frame: pl.DataFrame
    rows: pl.Series
    decimal: str = "."

    @classmethod
    def of(cls, path: Path, frame: pl.DataFrame) -> Part:
        return cls(str(path), frame, pl.int_range(1, len(frame) + 1, dtype=pl.Int64, eager=True))

    @property
    def last_row(self) -> int:
        """Number of the last row, or 0."""
        return int(self.rows[-1]) if len(self.rows) else 0

    def cells(self, column: str, problems: Problems) -> Cells | None:
        """A column, or None (and a problem) if the file lacks it."""
        if column not in self.frame.columns:
            columns = ", ".join(repr(name) for name in self.frame.columns[:20])
            problems.add("missing_column", Place(self.file, None, column, note=f"columns are {columns}"))
            return None
        return Cells(self.file, column, self.rows, self.frame[column], self.decimal)

    def where(self, mask: pl.Series) -> Part:
        return replace(self, frame=self.frame.filter(mask), rows=self.rows.filter(mask))


def read(table: TableConfig, problems: Problems) -> list[Part]:
    """One part per readable file."""
    parts = []
    for path in paths(table, problems):
        kind = (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()
        if kind in _PARQUET:
            part = _parquet(path, table, problems)
        elif kind in _TEXT:
            part = _text(path, table, problems)
        else:
            part = None
            problems.add("file_damaged", Place(str(path), note=f"{kind or 'no suffix'} is none of {KINDS}"))
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


def _parquet(path: Path, table: TableConfig, problems: Problems) -> Part | None:
    try:
        frame = pl.read_parquet(path, hive_partitioning=False)
        frame = frame.cast({pl.Categorical: pl.String, pl.Enum: pl.String})
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        problems.add("file_damaged", Place(str(path), note=first_line(error)))
        return None
    problems.bad_rows.allow(str(path), table.bad_rows_at_most, len(frame))
    return Part.of(path, frame)


def _text(path: Path, table: TableConfig, problems: Problems) -> Part | None:
    content = DelimitedFile(path, table, problems).read()
    if content is None:
        return None
    frame, rows = content
    part = Part(str(path), frame, rows, table.decimal)
    blank = frame.select(pl.all_horizontal(pl.all() == "")).to_series()
    if bool(blank.any()):
        first = frame.columns[0]
        Cells(part.file, first, part.rows, frame[first]).flag(problems, "blank_row", blank)
        part = part.where(~blank)
    nulled = pl.when(pl.all().is_in(list(table.nulls))).then(None).otherwise(pl.all()).name.keep()
    return replace(part, frame=part.frame.with_columns(nulled))
