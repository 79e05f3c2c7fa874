"""The columns of users and items as features: which are lists, numbers, categories or texts, and what a model reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

_LIST_SEPARATORS = ("|", ";", ", ", ",", "/", ">")
_MOST_WORDS = 80
"""Entries of a vocabulary: the most frequent; what is rarer is unknown to the model."""
_LEAST_SUPPORT = 3
"""Owners that share a value before it is worth an entry."""
_BUCKETS = 10
_MOST_SLOTS = 8
_LONGEST_WORD = 60
_TITLE = re.compile(r"title|name|titel|nombre|titre|label|headline|书名|名|題", re.I)
_LINK = re.compile(r"https?://|\.(?:jpe?g|png|gif|webp)$", re.I)


@dataclass(frozen=True, slots=True)
class Column:
    """A feature: its ``name`` and ``column``, its type, and the field by which a model reads it, if one does.

    ``field`` has the keys of ``FieldSpec`` without the name. ``remark`` says what the file holds.
    """

    name: str
    column: str
    type: Literal["text", "int", "float", "list"]
    separator: str | None
    field: dict[str, Any] | None
    remark: str
    is_long: bool = False

    @property
    def is_number(self) -> bool:
        return self.type in ("int", "float")


def columns_of(table: pl.DataFrame, id_column: str) -> tuple[list[Column], list[str]]:
    """The features of a table, and remarks about columns that are none."""
    columns, remarks = [], []
    for name in table.columns:
        if name == id_column:
            continue
        values = table[name].drop_nulls()
        values = values.filter(values != "") if values.dtype == pl.String else values
        if not len(values):
            remarks.append(f"{name}: is empty")
        elif values.dtype == pl.String and _share(values, _LINK.pattern) > 0.5:
            remarks.append(f"{name}: addresses or file names")
        elif (column := _column(name, values, len(table))) is None:
            remarks.append(f"{name}: of a type that no feature has")
        else:
            columns.append(column)
    return columns, remarks


def title_of(columns: list[Column], table: pl.DataFrame) -> Column | None:
    """The column that names an item: by its own name, or else the shortest text that is another for almost all."""
    texts = [column for column in columns if column.type == "text" and column.field is None]
    named = [column for column in texts if _TITLE.search(column.column) and not column.is_long]
    if named:
        return named[0]
    return min(texts, key=lambda column: table[column.column].str.len_chars().mean() or 0.0, default=None)


def _column(name: str, values: pl.Series, rows: int) -> Column | None:
    safe = re.sub(r"[^\w]+", "_", name).strip("_") or "column"
    there = f"{len(values) / rows:.0%} have one" if len(values) < rows else "all have one"
    if isinstance(values.dtype, (pl.List, pl.Array)):
        words = Counter(word for row in values.cast(pl.List(pl.String)).to_list() for word in row if word)
        return Column(safe, name, "list", None, _words_field(words, _slots(values.list.len())), there)
    if values.dtype.is_numeric() or _is_numeric(values):
        return _number(safe, name, values, there)
    if values.dtype == pl.Boolean or values.dtype.is_temporal():
        return Column(safe, name, "text", None, _words_field(_counts(values.cast(pl.String)), 1), there)
    if values.dtype != pl.String:
        return None
    if (separator := _list_separator(values)) is not None:
        rows_of_words = [[part.strip() for part in row.split(separator) if part.strip()] for row in values.to_list()]
        words = Counter(word for row in rows_of_words for word in dict.fromkeys(row))
        slots = _slots(pl.Series([len(row) for row in rows_of_words]))
        return Column(safe, name, "list", separator, _words_field(words, slots), f"{there}, {len(words)} different")
    counts = _counts(values)
    is_category = len(counts) <= max(2, len(values) // 5) and max(map(len, counts)) <= _LONGEST_WORD
    field = _words_field(counts, 1) if is_category else None
    is_long = float(values.str.len_chars().mean() or 0.0) > 150  # type: ignore[arg-type]
    return Column(safe, name, "text", None, field, f"{there}, {len(counts)} different", is_long)


def _counts(values: pl.Series) -> Counter[str]:
    counted = values.alias("value").value_counts()
    return Counter(dict(zip(counted["value"].to_list(), counted["count"].to_list(), strict=True)))


def _share(values: pl.Series, pattern: str) -> float:
    return float(values.str.contains(pattern).mean() or 0.0)  # type: ignore[arg-type]


def _is_numeric(values: pl.Series) -> bool:
    if values.dtype != pl.String:
        return False
    return values.str.strip_chars().cast(pl.Float64, strict=False).null_count() == 0


def _number(safe: str, name: str, values: pl.Series, there: str) -> Column:
    number = values.str.strip_chars() if values.dtype == pl.String else values
    number = number.cast(pl.Float64, strict=False)
    number = number.filter(number.is_finite())
    is_whole = bool((number.floor() == number).all())
    different = number.unique().sort().to_list()
    if len(different) <= _BUCKETS:
        edges = different[1:]
    else:
        quantiles = (float(number.quantile(at / _BUCKETS, "nearest") or 0.0) for at in range(1, _BUCKETS))
        edges = sorted({edge for edge in quantiles if edge > different[0]})
    field = {"edges": [int(edge) if edge == int(edge) else edge for edge in edges]} if edges else None
    spread = f"{there}, from {different[0]:g} to {different[-1]:g}" if different else there
    return Column(safe, name, "int" if is_whole else "float", None, field, spread)


def _list_separator(values: pl.Series) -> str | None:
    """The separator of a list column: many cells have it, and its parts are short and come again and again."""
    sample = values.head(20_000)
    for separator in _LIST_SEPARATORS:
        if _share(sample, re.escape(separator)) < 0.3:
            continue
        parts = Counter(_parts(sample, separator))
        total = parts.total()
        again = sum(count for count in parts.values() if count >= _LEAST_SUPPORT)
        length = sum(len(part) * count for part, count in parts.items())
        if total and again / total > 0.7 and length / total <= _LONGEST_WORD:
            return separator
    return None


def _parts(values: pl.Series, separator: str) -> Iterator[str]:
    for cell in values.to_list():
        yield from (part.strip() for part in cell.split(separator) if part.strip())


def _slots(lengths: pl.Series) -> int:
    return int(min(_MOST_SLOTS, max(1, lengths.quantile(0.95, "nearest") or 1)))


def _words_field(counts: Counter[str], slots: int) -> dict[str, Any] | None:
    words = [word for word, count in counts.most_common() if count >= _LEAST_SUPPORT and len(word) <= _LONGEST_WORD]
    words = words[:_MOST_WORDS]
    if len(words) < 2:
        return None
    return ({"slots": slots} if slots > 1 else {}) | {"vocab": sorted(words)}
