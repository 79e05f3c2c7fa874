"""The columns of the interactions by what they hold: user, item, time, value, type of event, part.

Contents speak first (an item column holds ids that the items' table describes), names second. All that is unclear is
said in a remark, because a person reads the configuration before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import polars as pl

from offline.data.catalogue import DataError

_USER = re.compile(
    r"user|customer|client|reader|visitor|member|session|buyer|person|account|uid|reviewer|author_id", re.I
)
_ITEM = re.compile(
    r"item|product|movie|film|book|track|song|artist|game|article|sku|asin|isbn|iid|news|video|offer", re.I
)
_TIME = re.compile(r"time|date|stamp|^ts$|_ts$|_at$|created|when|datum|zeit|fecha|jour|日|时|時", re.I)
_VALUE = re.compile(r"rating|stars?$|score|value|label|click|liked?|target|grade|note|bewertung|评分|評価", re.I)
_NO_VALUE = re.compile(r"position|rank|index|quantity|qty|price|amount|count|page|_id$|^id$|unnamed", re.I)
_TYPE = re.compile(r"event|type|action|behaviou?r|kind", re.I)
_ORDER = re.compile(r"position|order|sequence|^seq$|^rank$|^step$|^index$", re.I)
_PART = re.compile(r"part|split|fold|set$|subset", re.I)

PARTS = {
    "train": "train", "training": "train", "valid": "validation", "validation": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""Words for the parts of a data set that brings its split."""

_FORMATS = (
    "%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M",
    "%d.%m.%Y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y",
    "%d-%m-%Y %H:%M:%S", "%d-%m-%Y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%B %d, %Y", "%m %d, %Y",
)  # fmt: skip

_MOST_VALUES = 21
"""Different numbers up to which a column may be a rating: half stars from 0 to 10."""
_MOST_TYPES = 20
_LEAST_OVERLAP = 0.5

EARLIEST_SECONDS = 3e8
"""July 1979: no interaction on a computer network is older, and smaller numbers are counters or ids."""


@dataclass(frozen=True, slots=True)
class Time:
    """The form of times: a ``time_unit``, or a ``time_format``."""

    column: str
    unit: Literal["s", "ms", "iso", "order"] | None = None
    format: str | None = None


@dataclass(slots=True)
class Roles:
    """Columns of the interactions, and the id columns of the tables that describe items and users."""

    user: str
    item: str
    item_id: str
    user_id: str | None = None
    time: Time | None = None
    value: str | None = None
    type: str | None = None
    part: str | None = None
    remarks: list[str] = field(default_factory=list)


def roles_of(interactions: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame | None) -> Roles:
    """The roles of the columns. DataError if there is no column of items, or none of users."""
    item, item_id, remark = _matching(interactions, items, _ITEM, "item")
    free = [name for name in interactions.columns if name != item]
    user_id = None
    if users is not None:
        user, user_id, _ = _matching(interactions.select(free), users, _USER, "user")
    else:
        user = _user(interactions, free)
    roles = Roles(user, item, item_id, user_id, remarks=[remark] if remark else [])
    free.remove(user)
    roles.time = _time(interactions, free, roles.remarks)
    free = [name for name in free if roles.time is None or name != roles.time.column]
    roles.part = next((name for name in free if _is_part(interactions[name])), None)
    free = [name for name in free if name != roles.part]
    roles.value = _value(interactions, free)
    free = [name for name in free if name != roles.value]
    roles.type = next((name for name in free if _TYPE.search(name) and _is_type(interactions[name])), None)
    return roles


def part_words(values: pl.Series) -> dict[str, list[str]]:
    """The words of a column of parts, by part."""
    words: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for word in values.drop_nulls().unique().sort().to_list():
        words[PARTS[str(word).strip().lower()]].append(str(word))
    return words


def _as_ids(values: pl.Series) -> pl.Series | None:
    """The ids of a column as text; None if it holds no text and no whole numbers."""
    if not (values.dtype == pl.String or values.dtype.is_integer()):
        return None
    return values.cast(pl.String).drop_nulls()


def _matching(table: pl.DataFrame, described: pl.DataFrame, hint: re.Pattern[str], what: str) -> tuple[str, str, str]:
    """The column of ``table`` and the id column of ``described`` that fit best, and a remark if not all ids do."""
    best: tuple[float, float, str, str] | None = None
    for id_column in described.columns:
        ids = _as_ids(described[id_column])
        if ids is None or not len(ids) or ids.n_unique() < 0.9 * len(described):
            continue
        known = ids.unique()
        for column in table.columns:
            used = _as_ids(table[column])
            if used is None or not len(used):
                continue
            used = used.unique()
            common = int(used.is_in(known.implode()).sum())
            overlap, coverage = common / len(used), common / len(known)
            if len(used) <= _MOST_VALUES and coverage < 0.5:  # stars from 1 to 5 are not the first five items
                continue
            named = 0.4 * (column == id_column) + 0.3 * bool(hint.search(column))
            candidate = (overlap + 0.5 * coverage + named, overlap, column, id_column)
            best = candidate if best is None or candidate > best else best
    if best is None or best[1] < _LEAST_OVERLAP:
        nearest = f"; the nearest is {best[2]!r} with {best[1]:.0%} of its ids" if best is not None and best[1] else ""
        raise DataError(
            f"no column of the interactions ({', '.join(table.columns)}) holds ids that the {what}s' table describes"
            f" ({', '.join(described.columns)}){nearest}: are ids written alike, 12 and not 12.0, 7 and not 007?"
        )
    _, overlap, column, id_column = best
    return (
        column,
        id_column,
        "" if overlap == 1.0 else f"{1 - overlap:.1%} of the {what}s of interactions are not described",
    )


def _user(interactions: pl.DataFrame, names: Sequence[str]) -> str:
    """By its name, or else the column of ids that repeat most evenly."""
    candidates = []
    for name in names:
        ids = _as_ids(interactions[name])
        if ids is not None and len(ids) == len(interactions):
            share = ids.n_unique() / len(ids)
            named = bool(_USER.search(name)) and not _TIME.search(name)
            candidates.append((named, 0.0 < share < 0.9 and not _NO_VALUE.search(name), share, name))
    if not candidates or not (max(candidates)[0] or max(candidates)[1]):
        raise DataError(
            f"no column of the interactions ({', '.join(names)}) looks like users': name it user, or give --users"
        )
    return max(candidates)[3]


def _time(interactions: pl.DataFrame, names: Iterable[str], remarks: list[str]) -> Time | None:
    times = {name: time for name in names if (time := _time_form(interactions[name])) is not None}
    if not times:
        order = next((name for name in names if _ORDER.search(name) and _is_whole(interactions[name])), None)
        return None if order is None else Time(order, "order")
    name = max(times, key=lambda name: (bool(_TIME.search(name)), interactions[name].n_unique()))
    form = times[name].format
    if form is not None and {"%d/%m/%Y", "%m/%d/%Y"} & {form[:8]}:
        other = form.replace("%d/%m", "%m/%d") if form.startswith("%d") else form.replace("%m/%d", "%d/%m")
        if _parses(interactions[name], other):
            remarks.append(f"days and months of {name!r} cannot be told apart: {form!r} or {other!r}")
    return times[name]


def _time_form(values: pl.Series) -> Time | None:
    """The form of a column of times; None if it holds none."""
    if values.dtype in (pl.Datetime, pl.Date):
        return Time(values.name, "iso")
    number = values.cast(pl.Float64, strict=False) if values.dtype != pl.Boolean else None
    if number is not None and values.dtype != pl.Date and number.null_count() == values.null_count() and len(number):
        low, high = number.min(), number.max()
        now = datetime.now(UTC).timestamp() + 86_400
        if not isinstance(low, float) or not isinstance(high, float):
            return None
        for unit, factor in (("s", 1), ("ms", 1000)):
            if EARLIEST_SECONDS * factor <= low and high <= now * factor:
                return Time(values.name, "s" if unit == "s" else "ms")
        if values.dtype != pl.String or not 19_000_101 <= low <= high <= 21_001_231:
            return None
    if values.dtype != pl.String:
        return None
    texts = values.drop_nulls()
    if len(texts) and all(_is_iso(text) for text in texts.head(1000)) and all(_is_iso(text) for text in texts.unique()):
        return Time(values.name, "iso")
    form = next((form for form in _FORMATS if _parses(texts, form)), None)
    return None if form is None else Time(values.name, None, form)


def _is_whole(values: pl.Series) -> bool:
    return values.dtype != pl.Boolean and values.cast(pl.Int64, strict=False).null_count() == values.null_count()


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return True


def _parses(values: pl.Series, form: str) -> bool:
    texts = values.drop_nulls().unique()
    return bool(len(texts)) and texts.str.strptime(pl.Datetime("ms"), form, strict=False).null_count() == 0


def _is_part(values: pl.Series) -> bool:
    if values.dtype != pl.String or values.null_count() or not _PART.search(values.name):
        return False
    words = {str(word).strip().lower() for word in values.unique().to_list()}
    return words <= PARTS.keys() and {PARTS[word] for word in words} >= {"train", "test"}


def _is_type(values: pl.Series) -> bool:
    return values.dtype == pl.String and not values.null_count() and 1 < values.n_unique() <= _MOST_TYPES


def _value(interactions: pl.DataFrame, names: Iterable[str]) -> str | None:
    """The column of ratings or of labels: a few different numbers, by its name if several are."""
    candidates = []
    for name in names:
        values = interactions[name]
        if values.dtype == pl.Boolean:
            candidates.append((bool(_VALUE.search(name)), 2, name))
            continue
        number = values.cast(pl.Float64, strict=False)
        if not (values.dtype == pl.String or values.dtype.is_numeric()) or number.null_count() > values.null_count():
            continue
        different = number.drop_nulls().n_unique()
        named = bool(_VALUE.search(name))
        if (1 < different <= _MOST_VALUES and not _NO_VALUE.search(name)) or (named and different > 1):
            candidates.append((named, -different, name))
    return max(candidates)[2] if candidates else None
