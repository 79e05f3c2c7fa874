"""The columns of users and items as features: which are lists, numbers, categories or texts, and what a model reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from offline.data.notations import ARRAY, array_of

_LIST_SEPARATORS = ("|", ";", ", ", ",", "/", ">")
_MOST_WORDS = 80
"""Entries of a vocabulary: the most frequent; what is rarer is unknown to the model."""
_LEAST_SUPPORT = 3
"""Owners that share a value before it is worth an entry."""
_BUCKETS = 10
_MOST_SLOTS = 8
_LONGEST_WORD = 60
_YES_NO = frozenset(
    ("yes", "no", "y", "n", "true", "false", "ja", "nein", "j", "nee", "sí", "si", "oui", "non", "sim", "não", "да",
     "нет", "はい", "いいえ", "是", "否")
)  # fmt: skip
_LONG = 150
"""Characters of a text that is a description."""
LINK = re.compile(r"https?://|www\.|\.(?:jpe?g|png|gif|webp)$", re.I)
DATE = re.compile(r"^\s*\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[T ].*)?$")
DECIMAL_COMMA = re.compile(r"^\s*[€$£]?\s*[-+]?\d[\d.]*(?:,\d+)?\s*(?:€|\$|£|EUR|USD|CHF|%)?\s*$", re.I)
_SUMS = re.compile(r"^(?:avg|average|ratings?|scores?|counts?|reviews?|votes?|popularity|num)$")
"""Words in the names of numbers that are reckoned from what users did."""
_OWN_PARTS = re.compile(
    r"^(?:page|word|chapter|season|episode|player|piece|track|disc|door|seat|(?:bed|bath)?room|bed|bath)s?$"
)
"""Words that say that parts of the item itself are counted."""


@dataclass(frozen=True, slots=True)
class Column:
    """A feature: its ``name`` and ``column``, its type, and the field by which a model reads it, if one does.

    ``field`` has the keys of ``FieldSpec`` without the name. ``remark`` says what the file holds. ``is_labelled``: its
    values say nothing without its name, such as numbers and yes or no.
    """

    name: str
    column: str
    type: Literal["text", "int", "float", "list"]
    separator: str | None
    field: dict[str, Any] | None
    remark: str
    is_long: bool = False
    is_labelled: bool = False


@dataclass(frozen=True, slots=True)
class TableFeatures:
    """The features of a table; ``remarks`` about columns that are none; ``sums``, those of them that are reckoned from
    what users did: nobody knows until when, so that they may tell a model what the test holds."""

    columns: Sequence[Column] = ()
    remarks: Sequence[str] = ()
    sums: Sequence[str] = ()


def features_of(table: pl.DataFrame, id_column: str, owners: str) -> TableFeatures:
    """The features of a table that describes ``owners``, "items" or "users"; a user's profile holds no lists."""
    columns, remarks, sums = [], [], []
    for name in table.columns:
        if name == id_column:
            continue
        values = table[name].drop_nulls()
        values = values.filter(values.str.strip_chars() != "") if values.dtype == pl.String else values
        if not len(values):
            remarks.append(f"{name}: is empty")
        elif values.dtype == pl.String and share_of(values, LINK.pattern) > 0.5:
            remarks.append(f"{name}: addresses or file names")
        elif _is_sum(name) and (_is_numeric(values) or _has_decimal_commas(values)):
            remarks.append(f"{name}: by its name reckoned from what users did, also after the training period")
            sums.append(name)
        elif (column := _column(name, values, f"{len(table):,} {owners}", owners != "users")) is None:
            remarks.append(f"{name}: of a type that no feature has")
        else:
            columns.append(column)
    return TableFeatures(columns, remarks, sums)


def length_of(values: pl.Series) -> float:
    """Characters of a text, on average."""
    return float(values.str.len_chars().mean() or 0.0)  # type: ignore[arg-type]


def _is_sum(name: str) -> bool:
    """Whether a column is called like a number that is reckoned from interactions."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    words = [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
    return any(map(_SUMS.match, words)) and not any(map(_OWN_PARTS.match, words))


def _presence(count: int, owners: str) -> str:
    """How many of ``owners``, such as "40 items", have a value."""
    total = owners.split(" ")[0]
    return f"all {owners} have one" if f"{count:,}" == total else f"{count:,} of {owners} have one"


def _column(name: str, values: pl.Series, owners: str, may_be_list: bool) -> Column | None:
    safe = re.sub(r"[^\w]+", "_", name).strip("_") or "column"
    if isinstance(values.dtype, (pl.List, pl.Array)):
        if not may_be_list:
            return None
        rows = [[word for word in row if word] for row in values.cast(pl.List(pl.String)).to_list()]
        return _list(safe, name, None, rows, owners)
    if _is_numeric(values):
        return _number(safe, name, values, owners)
    there = _presence(len(values), owners)
    if values.dtype == pl.Boolean or values.dtype.is_temporal():
        field = _words_field(_counts(values.cast(pl.String)), 1)
        return Column(safe, name, "text", None, field, there, is_labelled=True)
    if values.dtype != pl.String:
        return None
    if _has_decimal_commas(values):
        remark = f"{there}; numbers with a comma, in a file with others: a text and no field, until all have a point"
        return Column(safe, name, "text", None, None, remark, is_labelled=True)
    is_date = share_of(values, DATE.pattern) > 0.5
    if may_be_list and not is_date and (separator := _list_separator(values)) is not None:
        split = array_of if separator == ARRAY else lambda row: [part.strip() for part in row.split(separator)]
        rows = [[part for part in split(row) or () if part] for row in values.to_list()]
        return _list(safe, name, separator, rows, owners)
    counts = _counts(values)
    is_labelled = is_date or {word.strip().lower() for word in counts} <= _YES_NO
    is_category = len(counts) <= max(2, len(values) // 5) and max(map(len, counts)) <= _LONGEST_WORD
    field = _words_field(counts, 1) if is_category else None
    remark = f"{there}, {len(counts):,} different"
    return Column(safe, name, "text", None, field, remark, length_of(values) > _LONG, is_labelled)


def _list(safe: str, name: str, separator: str | None, rows: list[list[str]], owners: str) -> Column:
    words = Counter(word for row in rows for word in dict.fromkeys(row))
    slots = _slots(pl.Series([len(row) for row in rows]))
    there = _presence(sum(map(bool, rows)), owners)
    return Column(safe, name, "list", separator, _words_field(words, slots), f"{there}, {len(words):,} different")


def _counts(values: pl.Series) -> Counter[str]:
    counted = values.alias("value").value_counts()
    return Counter(dict(zip(counted["value"].to_list(), counted["count"].to_list(), strict=True)))


def share_of(values: pl.Series, pattern: str) -> float:
    """Share of the texts in which a pattern occurs."""
    return float(values.str.contains(pattern).mean() or 0.0)  # type: ignore[arg-type]


def _is_numeric(values: pl.Series) -> bool:
    if values.dtype != pl.String:
        return values.dtype.is_numeric()
    return values.str.strip_chars().cast(pl.Float64, strict=False).null_count() == 0


def _has_decimal_commas(values: pl.Series) -> bool:
    """Whether a column holds numbers, some of them as 35,37."""
    return (
        values.dtype == pl.String and share_of(values, DECIMAL_COMMA.pattern) > 0.9 and share_of(values, r"\d,\d") > 0.1
    )


def _number(safe: str, name: str, values: pl.Series, owners: str) -> Column:
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
    there = _presence(len(number), owners)
    spread = f"{there}, from {different[0]:g} to {different[-1]:g}" if different else there
    return Column(safe, name, "int" if is_whole else "float", None, field, spread, is_labelled=True)


def _list_separator(values: pl.Series) -> str | None:
    """The separator of a list column: many cells have it, and its parts are short and come again and again."""
    sample = values.head(20_000)
    if share_of(sample, r"^\s*\[.*\]\s*$") > 0.9 and None not in map(array_of, values.to_list()):
        return ARRAY
    for separator in _LIST_SEPARATORS:
        if share_of(sample, re.escape(separator)) < (
            0.05 if separator == "|" else 0.3
        ):  # a bar is rarely anything else
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
