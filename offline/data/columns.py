"""Meaning of the cells of a column: ids, times, values and features. A cell that breaks a rule is noted and is null."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC
from typing import Any

import polars as pl

from models.contract.ids import CONTROL_CHARACTERS, ID_BYTES
from models.contract.times import LIMIT_MS
from offline.data.config import ColumnConfig
from offline.data.notations import ARRAY, array_of, moment_of, with_point
from offline.data.row_config import ValueCondition
from offline.data.rules import Place, Problems
from offline.data.tables import Cells

_TEXT_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_WITHOUT_TEXT = (pl.Binary, pl.Object, pl.Duration)
"""Types without a text that people would read."""

_COMPARE: dict[str, Callable[[pl.Series, float], pl.Series]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip

_BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}

_LATEST_SECONDS = 1e11
"""The year 5138 in seconds, March 1973 in milliseconds: no interaction's time is on the wrong side of it."""
_EARLIEST_SECONDS = 1e8
"""March 1973 in seconds. Milliseconds below it are taken for counters that start at 0."""


def ids(cells: Cells, problems: Problems, nobody: Collection[str] | None = None) -> pl.Series:
    """Ids as text. Null also for those of ``nobody`` and for blank ones, where it is said who that is."""
    kind = cells.values.dtype
    if not (kind.is_integer() or kind == pl.String):
        return _refused(cells, "id_type", pl.String, problems)
    text = cells.values.cast(pl.String)
    empty = text.is_null() | (text == "")
    long = text.str.len_bytes() > ID_BYTES
    control = text.str.contains(CONTROL_CHARACTERS)
    cells.flag(problems, "id_empty", empty)
    cells.flag(problems, "id_long", long)
    cells.flag(problems, "id_control", control)
    cells.flag(problems, "id_spaces", ~control & (text.str.strip_chars() != text))
    if nobody is None:
        return _without(text, empty | long | control)
    nameless = ~empty & (text.is_in(list(nobody)) | (text.str.strip_chars() == ""))
    cells.flag(problems, "id_nobody", nameless)
    return _without(text, empty | long | control | nameless)


def texts(cells: Cells, problems: Problems) -> pl.Series:
    """Texts of whatever differs by its text, such as the type of an event."""
    if not _is_feature(cells.values.dtype, "word"):
        return _refused(cells, "feature_type", pl.String, problems)
    return cells.values.cast(pl.String)


def times(cells: Cells, unit: str | None, form: str | None, problems: Problems) -> pl.Series:
    """Unix milliseconds, int64, of times in a unit or in a format of strptime; of unit "order", the number itself."""
    kind = cells.values.dtype
    if kind == pl.Datetime or kind == pl.Date:
        if unit != "iso":
            return _refused(cells, "time_unit", pl.Int64, problems, f'{kind} is a time by itself: time_unit = "iso"')
        ms = cells.values.cast(pl.Datetime("ms")).dt.epoch("ms")
    elif not (kind.is_numeric() or kind == pl.String):
        return _refused(cells, "time_value", pl.Int64, problems)
    elif unit in ("s", "ms"):
        return _unix_ms(cells, unit, problems)
    elif unit == "order":
        return _order(cells, problems)
    else:
        texts = cells.values.cast(pl.String)
        known = {text: _moment_ms(text, form) for text in texts.unique().to_list()}
        ms = pl.Series(cells.column, [known[text] for text in texts.to_list()], pl.Int64)
    cells.flag(problems, "time_value", ms.is_null())
    cells.flag(problems, "time_negative", ms < 0)
    return _without(ms, ms < 0)


def _order(cells: Cells, problems: Problems) -> pl.Series:
    number = _number(cells)
    bad = number.is_null() | ~number.is_finite() | (number.floor() != number) | (number >= LIMIT_MS)
    cells.flag(problems, "time_value", bad.fill_null(True))
    cells.flag(problems, "time_negative", ~bad & (number < 0))
    return _without(number, bad | (number < 0)).cast(pl.Int64)


def _unix_ms(cells: Cells, unit: str, problems: Problems) -> pl.Series:
    number, whole = _number(cells), _whole(cells)
    bad = number.is_null() | ~number.is_finite()
    negative = ~bad & (number < 0)
    if unit == "s":
        other = ~bad & (number >= _LATEST_SECONDS)
        ms = pl.select(pl.coalesce(whole * 1000, (number * 1000).round())).to_series()
    else:
        seconds = (number >= _EARLIEST_SECONDS) & (number < _LATEST_SECONDS)
        other = ~bad & (seconds | (number >= _LATEST_SECONDS * 1000))
        ms = pl.select(pl.coalesce(whole, number.round())).to_series()
    cells.flag(problems, "time_value", bad)
    cells.flag(problems, "time_negative", negative)
    cells.flag(problems, "time_unit", other)
    return _without(ms, bad | negative | other).cast(pl.Int64)


def _moment_ms(text: str | None, form: str | None) -> int | None:
    """Unix milliseconds of a text in a format, or in ISO 8601 without one; UTC unless it says. None of another text."""
    moment = moment_of(text or "", form)
    if moment is None:
        return None
    try:
        return round((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def parts(cells: Cells, numbers: Mapping[str, int], problems: Problems) -> pl.Series:
    """Numbers of the parts that values name."""
    if not _is_feature(cells.values.dtype, "word"):
        return _refused(cells, "feature_type", pl.Int8, problems)
    part = cells.values.cast(pl.String).replace_strict(dict(numbers), default=None, return_dtype=pl.Int8)
    cells.flag(problems, "split_value", part.is_null())
    return part


def admitted(cells: Cells, condition: Sequence[str] | Sequence[ValueCondition], problems: Problems) -> pl.Series:
    """Whether rows have one of some texts, or a number that keeps all comparisons."""
    texts_of_rows = [entry for entry in condition if isinstance(entry, str)]
    if texts_of_rows:
        return texts(cells, problems).is_in(texts_of_rows).fill_null(False)
    if not (cells.values.dtype.is_numeric() or cells.values.dtype == pl.String):
        return _refused(cells, "number", pl.Boolean, problems).fill_null(False)
    number = _number(cells)
    absent = cells.values.is_null() if cells.values.dtype != pl.String else cells.values.fill_null("") == ""
    cells.flag(problems, "number", ~absent & number.is_null())
    keeps = number.is_not_null() & ~number.is_nan().fill_null(False)
    for comparison in condition:
        if isinstance(comparison, ValueCondition):
            keeps &= _COMPARE[comparison.operator](number, comparison.bound).fill_null(False)
    return keeps


def values(cells: Cells, binary: bool, problems: Problems) -> pl.Series:
    """Ratings, or labels 0 and 1, float64."""
    kind = cells.values.dtype
    if not (kind.is_numeric() or kind in (pl.String, pl.Boolean)):
        return _refused(cells, "value_binary" if binary else "value_number", pl.Float64, problems)
    if binary:
        text = cells.values.cast(pl.String).str.strip_chars().str.to_lowercase()
        number = text.replace_strict(_BINARY, default=None, return_dtype=pl.Float64)
        cells.flag(problems, "value_binary", number.is_null())
        return number
    number = _number(cells)
    bad = number.is_null() | ~number.is_finite()
    cells.flag(problems, "value_number", bad)
    return _without(number, bad)


def feature(cells: Cells, config: ColumnConfig | None, problems: Problems) -> list[Any]:
    """Raw feature values: text, numbers, lists of text, or None where there is nothing."""
    kind = cells.values.dtype
    read_as = config.type if config is not None else _natural(kind)
    if not _is_feature(kind, read_as):
        return _refused(cells, "feature_type", pl.Null, problems).to_list()
    if kind == pl.List or kind == pl.Array:
        listed = cells.values.cast(pl.List(pl.String))
        cells.flag(problems, "control_characters", listed.list.join(" ", ignore_nulls=True).str.contains(_TEXT_CONTROL))
        return [[part for part in row or () if part] for row in listed.to_list()]
    if read_as in ("int", "float"):
        return _numbers(cells, read_as, problems)
    text = cells.values.cast(pl.String)
    cells.flag(problems, "control_characters", text.str.contains(_TEXT_CONTROL))
    if read_as == "list" and config is not None and config.separator == ARRAY:
        arrays = [array_of(row) for row in text.to_list()]
        cells.flag(problems, "array", pl.Series([array is None for array in arrays], dtype=pl.Boolean))
        return arrays
    if read_as == "list" and config is not None:
        rows = ((row or "").split(config.separator) for row in text.to_list())
        return [[part.strip() for part in row if part.strip()] for row in rows]
    return [row or None for row in text.to_list()]


def _natural(kind: pl.DataType) -> str:
    if kind.is_integer():
        return "int"
    return "float" if kind.is_float() or kind == pl.Decimal else "text"


def _is_feature(kind: pl.DataType, read_as: str) -> bool:
    if isinstance(kind, (pl.List, pl.Array)):
        return read_as in ("text", "list") and not kind.inner.is_nested() and kind.inner not in _WITHOUT_TEXT
    if kind.is_nested() or kind in _WITHOUT_TEXT:
        return False
    return not (kind.is_temporal() and read_as in ("int", "float"))


def _numbers(cells: Cells, read_as: str, problems: Problems) -> list[Any]:
    """NaN is how other libraries write an absent number, so it is one here."""
    number, absent = _number(cells), cells.values.is_null()
    if cells.values.dtype != pl.String:
        absent = absent | number.is_nan().fill_null(False)
    bad = ~absent & (number.is_null() | ~number.is_finite())
    if read_as == "int":
        bad = bad | (~absent & (number.floor() != number)).fill_null(False)
    cells.flag(problems, "number", bad)
    sound = _without(number, bad | absent)
    if read_as == "float":
        return sound.to_list()
    exact = _without(_whole(cells), bad | absent)
    return pl.select(pl.coalesce(exact, sound.cast(pl.Int64, strict=False))).to_series().to_list()


def _number(cells: Cells) -> pl.Series:
    return (_digits(cells) if cells.values.dtype == pl.String else cells.values).cast(pl.Float64, strict=False)


def _digits(cells: Cells) -> pl.Series:
    return with_point(cells.values) if cells.decimal == "," else cells.values.str.strip_chars()


def _whole(cells: Cells) -> pl.Series:
    """Exact whole numbers; null for whatever else a number may look like."""
    values = cells.values
    if values.dtype == pl.String:
        return _digits(cells).cast(pl.Int64, strict=False)
    if values.dtype.is_integer():
        return values.cast(pl.Int64, strict=False)
    return pl.repeat(None, len(values), dtype=pl.Int64, eager=True)


def _refused(cells: Cells, rule: str, kind: type[pl.DataType], problems: Problems, note: str = "") -> pl.Series:
    """Nulls in place of a column whose type breaks a rule."""
    problems.add(rule, Place(cells.file, None, cells.column, note=note or f"it is {cells.values.dtype}"))
    return pl.repeat(None, len(cells.values), dtype=kind, eager=True).alias(cells.column)


def _without(values: pl.Series, broken: pl.Series) -> pl.Series:
    return pl.select(pl.when(broken.fill_null(True)).then(None).otherwise(values)).to_series().alias(values.name)
