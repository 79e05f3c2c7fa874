"""How the cells of a column are read as times; a few cells that do not fit are no reason to refuse it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, product
from types import MappingProxyType
from typing import Literal

import numpy as np
import polars as pl

from offline.data.notations import moment_of
from offline.data.outliers import far_times
from offline.data.row_config import check_format
from offline.proposal.values import BAD_ROWS, BAD_SHARE, example_of, fits, no_cells, read_values

EARLIEST_SECONDS = 3e8
"""July 1979: no interaction on a computer network is older, and smaller numbers are counters or ids."""

_DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y",
    "%d %b %Y", "%d %B %Y", "%d-%B-%Y",
    "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%m %d, %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y",
    "%m-%d-%y", "%d-%b-%y", "%d %b %y", "%y-%m-%d", "%y/%m/%d",
)  # fmt: skip
_CLOCKS = (
    "", " %H:%M:%S", " %H:%M", " %H:%M:%S UTC", " %H:%M UTC", " %H:%M:%S.%f", " %H:%M:%S.%f UTC", " %I:%M:%S %p",
    " %I:%M %p", ", %H:%M:%S", ", %H:%M", "T%H:%M:%S", " %H:%M:%S%z", " %H:%M%z", " %H:%M:%S %z", " %H:%M %z",
    " %H.%M", " %H.%M.%S", "T%H:%M:%S%z", "T%H:%M:%S.%f%z", " %H:%M:%S.%f%z", " %H:%M Uhr", " %H:%M:%S Uhr",
)  # fmt: skip
_DATES_IN_SIGNS = ("%Y年%m月%d日", "%Y년 %m월 %d일", "%Y년%m월%d일")
_CLOCKS_IN_SIGNS = (
    "", " %H:%M", " %H:%M:%S", "%H:%M", "%H:%M:%S", "%H时%M分", "%H時%M分", "%H时%M分%S秒", "%H時%M分%S秒",
    " %H时%M分", " %H時%M分", " %H时%M分%S秒", " %H時%M分%S秒", " %H시 %M분", " %H시 %M분 %S초",
)  # fmt: skip
_FORMATS = (
    *(date + clock for date, clock in product(_DATES, _CLOCKS)),
    *(date + clock for date, clock in product(_DATES_IN_SIGNS, _CLOCKS_IN_SIGNS)),
    "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %z %Y", "%a %b %d %Y %H:%M:%S GMT%z",
    "%a, %d %b %Y %H:%M:%S %z", "%d/%b/%Y:%H:%M:%S %z",
)  # fmt: skip
_COMPACT: Mapping[int, str | None] = MappingProxyType({8: None, 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"})
"""Forms of times in digits alone, by their number; those of a date are in ISO 8601."""
_SAMPLE = 300
"""Different cells on which a format is tried before all are."""

_FINER = {"microseconds": 1e6, "nanoseconds": 1e9}


@dataclass(frozen=True, slots=True)
class Time:
    """The form of times: a ``time_unit``, or a ``time_format``."""

    column: str
    unit: Literal["s", "ms", "iso", "order"] | None = None
    format: str | None = None


@dataclass(frozen=True, slots=True)
class TimeReading:
    """Times of a column: their form, the cells [rows] that do not fit, and another format that fits all as well."""

    time: Time
    unfit: pl.Series
    other_format: str | None = None


def read_times(values: pl.Series) -> TimeReading | None:
    """The times of a column; None if it holds none."""
    if values.dtype in (pl.Datetime, pl.Date):
        return TimeReading(Time(values.name, "iso"), no_cells(values))
    if values.dtype != pl.String and not values.dtype.is_numeric():
        return None
    number = read_values(values)
    if not fits(values, number.is_null()):
        return _written(values, (None, *_FORMATS))
    if (reading := _unix(values, number)) is not None:
        return reading
    for digits, form in _COMPACT.items():
        first, last = 1900 * 10 ** (digits - 4), 2101 * 10 ** (digits - 4)
        if not values.dtype.is_float() and fits(values, ~number.is_between(first, last).fill_null(False)):
            return _written(values.cast(pl.String), (form,))
    return None


def seconds_of(values: pl.Series, time: Time) -> pl.Series:
    """Unix seconds, float64, of times in this form, of ``order`` the number itself; null for what is none."""
    if values.dtype in (pl.Datetime, pl.Date):
        return values.cast(pl.Datetime("ms")).cast(pl.Int64) / 1000
    if time.format is None and time.unit != "iso":
        return read_values(values) / (1000 if time.unit == "ms" else 1)
    texts = values.cast(pl.String).unique().to_list()
    moments = {text: moment_of(text or "", time.format) for text in texts}
    seconds = {text: None if moment is None else _utc(moment).timestamp() for text, moment in moments.items()}
    return pl.Series(values.name, [seconds[text] for text in values.cast(pl.String).to_list()], pl.Float64)


def impossible_times(values: pl.Series, time: Time) -> pl.Series:
    """Cells [rows] whose times lie in the future or far from most others; none if they are too many for mistakes."""
    seconds = seconds_of(values, time)
    known = np.flatnonzero(seconds.is_not_null().to_numpy())
    milliseconds = (seconds.drop_nulls().to_numpy() * 1000).astype(np.int64)
    impossible = np.zeros(len(values), bool)
    impossible[known] = milliseconds > _now() * 1000
    impossible[known[far_times(milliseconds)]] = True
    return pl.Series(values.name, impossible) if fits(values, pl.Series(impossible)) else no_cells(values)


def note_on_unread(values: pl.Series, instead: Time | None) -> str:
    """What a person can do about a column that is named like a time and is not read as one; ``instead`` is the one that
    takes its place."""
    if unit := _finer_unit(values):
        divisor = "1,000" if unit == "microseconds" else "1,000,000"
        what = f"holds {unit}, which no time_unit reads"
        remedy = f'divide them by {divisor} in the file, write time = "{values.name}" and time_unit = "ms"'
    else:
        what = "is named like a time and is not understood"
        remedy = f'write time = "{values.name}" and, in directives of strptime, time_format = "..."'
    remedy += " into [data.interactions]"
    if instead is None or instead.unit == "order":
        order, remedy = "rows are taken in order", f"{remedy}, and remove split_by from [data] if it is there"
    else:
        order = f"{instead.column!r} is taken for the time"
    return f"{values.name!r} {what}, such as {example_of(values)}, so {order}: to use it, {remedy}"


def _finer_unit(values: pl.Series) -> str:
    """Microseconds or nanoseconds, where a column holds times that no ``time_unit`` reads; "" of others."""
    if values.dtype != pl.String and not values.dtype.is_numeric():
        return ""
    number, now = read_values(values), _now()
    for unit, factor in _FINER.items():
        if fits(values, ~number.is_between(EARLIEST_SECONDS * factor, now * factor).fill_null(False)):
            return unit
    return ""


def _unix(values: pl.Series, number: pl.Series) -> TimeReading | None:
    units: tuple[tuple[Literal["s", "ms"], int], ...] = (("s", 1), ("ms", 1000))
    for unit, factor in units:
        inside = number.is_between(EARLIEST_SECONDS * factor, _now() * factor).fill_null(False)
        if fits(values, ~inside):
            return TimeReading(Time(values.name, unit), ~inside & values.is_not_null())
    return None


def _written(values: pl.Series, forms: Sequence[str | None]) -> TimeReading | None:
    """Times in ISO 8601, or else in the format that fits most cells; of formats that fit alike, the first, or with
    years of two digits the one whose times lie closest together, and not in the future."""
    different = values.drop_nulls().unique(maintain_order=True)
    sample = different.gather_every(max(1, len(different) // _SAMPLE)).to_list()
    most_faults = min(3 * BAD_SHARE * len(sample) + BAD_ROWS, len(sample) - 1)
    readings: list[tuple[int, float, int, str, pl.Series]] = []
    for form in forms:
        if not _fits_most(sample, form, most_faults):
            continue
        faults = [text for text in different.to_list() if not _is_time(text, form)]
        unfit = values.is_in(faults).fill_null(False)
        if not fits(values, unfit):
            continue
        if form is None:
            return TimeReading(Time(values.name, "iso"), unfit)
        check_format(form)
        span = _span(sample, form) if "%y" in form else 0.0
        readings.append((int(unfit.sum()), span, len(readings), form, unfit))
    if not readings:
        return None
    readings.sort(key=lambda reading: reading[:3])
    count, *_, form, unfit = readings[0]
    others = [other for number, *_, other, _ in readings if number == count and _differ(sample, form, other)]
    return TimeReading(Time(values.name, None, form), unfit, others[0] if others else None)


def _fits_most(sample: Sequence[str], form: str | None, most_faults: float) -> bool:
    """Whether no more texts than ``most_faults`` are none in this format; looks no further than it must."""
    faults = (text for text in sample if not _is_time(text, form))
    return sum(1 for _ in islice(faults, int(most_faults) + 1)) <= most_faults


def _is_time(text: str, form: str | None) -> bool:
    """Whether the reader of times (offline/data/columns.py) would take it, from 1970 on."""
    moment = moment_of(text, form)
    return moment is not None and moment.year >= 1970


def _span(texts: list[str], form: str) -> float:
    """Seconds from the first to the last time, or infinity if that lies in the future."""
    seconds = [_utc(moment).timestamp() for text in texts if (moment := moment_of(text, form)) is not None]
    return max(seconds) - min(seconds) if max(seconds) <= _now() else math.inf


def _differ(texts: list[str], form: str, other: str) -> bool:
    return any(_is_time(text, form) and moment_of(text, form) != moment_of(text, other) for text in texts)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _now() -> float:
    return datetime.now(UTC).timestamp() + 86_400
