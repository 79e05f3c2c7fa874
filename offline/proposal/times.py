"""How the cells of a column are read as times; a few cells that do not fit are no reason to refuse it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Literal

import numpy as np
import polars as pl

from offline.data.outliers import far_times
from offline.data.row_config import check_format
from offline.proposal.values import BAD_ROWS, BAD_SHARE, fits, no_cells, read_values

EARLIEST_SECONDS = 3e8
"""July 1979: no interaction on a computer network is older, and smaller numbers are counters or ids."""

_DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y",
    "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%m %d, %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y",
    "%m-%d-%y", "%d-%b-%y", "%d %b %y", "%y-%m-%d", "%y/%m/%d",
)  # fmt: skip
_CLOCKS = (
    "", " %H:%M:%S", " %H:%M", " %H:%M:%S UTC", " %H:%M UTC", " %H:%M:%S.%f", " %H:%M:%S.%f UTC", " %I:%M:%S %p",
    " %I:%M %p", ", %H:%M:%S", ", %H:%M", "T%H:%M:%S",
)  # fmt: skip
_FORMATS = (
    *(date + clock for date, clock in product(_DATES, _CLOCKS)),
    "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%d/%b/%Y:%H:%M:%S %z",
)  # fmt: skip
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
    if fits(values, number.is_null()):
        if (reading := _unix(values, number)) is not None or values.dtype != pl.String:
            return reading
        if not fits(values, ~number.is_between(19_000_101, 21_001_231).fill_null(False)):
            return None
    return _written(values)


def seconds_of(values: pl.Series, time: Time) -> pl.Series:
    """Unix seconds, float64, of times in this form, of ``order`` the number itself; null for what is none."""
    if values.dtype in (pl.Datetime, pl.Date):
        return values.cast(pl.Datetime("ms")).cast(pl.Int64) / 1000
    if time.format is None and time.unit != "iso":
        return read_values(values) / (1000 if time.unit == "ms" else 1)
    texts = values.cast(pl.String).unique().to_list()
    moments = {text: _moment(text or "", time.format) for text in texts}
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


def finer_unit(values: pl.Series) -> str:
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


def _written(values: pl.Series) -> TimeReading | None:
    """Times in ISO 8601, or else in the format that fits most cells; of formats that fit alike, the first, or with
    years of two digits the one whose times lie closest together, and not in the future."""
    different = values.drop_nulls().unique(maintain_order=True)
    sample = different.gather_every(max(1, len(different) // _SAMPLE)).to_list()
    least = len(sample) * (1 - 3 * BAD_SHARE) - BAD_ROWS
    readings: list[tuple[int, float, int, str, pl.Series]] = []
    for form in (None, *_FORMATS):
        if sum(_is_time(text, form) for text in sample) < max(1.0, least):
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


def _is_time(text: str, form: str | None) -> bool:
    """Whether the reader of times (offline/data/columns.py) would take it, from 1970 on."""
    moment = _moment(text, form)
    return moment is not None and moment.year >= 1970


def _span(texts: list[str], form: str) -> float:
    """Seconds from the first to the last time, or infinity if that lies in the future."""
    seconds = [_utc(moment).timestamp() for text in texts if (moment := _moment(text, form)) is not None]
    return max(seconds) - min(seconds) if max(seconds) <= _now() else math.inf


def _differ(texts: list[str], form: str, other: str) -> bool:
    return any(_is_time(text, form) and _moment(text, form) != _moment(text, other) for text in texts)


def _moment(text: str, form: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text.strip()) if form is None else datetime.strptime(text.strip(), form)
    except ValueError:
        return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _now() -> float:
    return datetime.now(UTC).timestamp() + 86_400
