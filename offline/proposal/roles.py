"""The columns of the interactions by what they hold: user, item, time, value, type of event, part.

Contents speak first (an item column holds ids that the items' table describes), names second. All that is unclear is
said in a remark, because a person reads the configuration before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from offline.proposal.id_columns import ITEM, USER, is_amount, matching, user_column
from offline.proposal.times import Time, TimeReading, impossible_times, note_on_unread, read_times
from offline.proposal.values import MOST_VALUES, example_of, is_opinion, off_scale, read_values, unfit_values

TIME_NAMES = re.compile(r"time|date|stamp|^ts$|_ts$|(?:^|_)at$|created|when|datum|zeit|fecha|jour|日|时|時", re.I)
VALUE_NAMES = re.compile(
    r"rating|stars?$|score|value|label|click|likes?$|liked|thumb|reaction|feedback|recommend|^overall$|^votes?$|target"
    r"|grade|bewertung|punkte|gef[aä]ll|(?:^|_)sterne?$|puntuaci|puntaje|calificaci|valoraci|estrella|gusta|pontua"
    r"|avalia|estrela|[eé]toile|^aim[eé]|^not(?:e|as?)$|valutazion|punteggio|^stelle$|^voto$|beoordel|waardering"
    r"|评分|評価",
    re.I,
)
_NO_VALUE = re.compile(
    r"position|rank|index|count|page|(?:^|_)id$|unnamed|store|shop|branch|gift|discount|number|hour|weekday|month"
    r"|(?:^|_)(?:day|week|year|age|level|size|version|device|platform|region|zip)(?:$|_)",
    re.I,
)
_NO_NAME = re.compile(r"column_\d+")
"""Names of columns in a file without a header."""
_NO_VALUE_UNLESS_NAMED = re.compile(r"^is_|^is[A-Z]|^has_|_flag$|^flag", re.I)
_TYPE = re.compile(r"event|type|action|behaviou?r|kind", re.I)
_ORDER = re.compile(r"position|order|sequence|^seq$|^rank$|^step$|^index$", re.I)
_NO_ORDER = re.compile(r"id$|_no$|number", re.I)
_PART = re.compile(r"part|split|fold|set$|subset", re.I)

PARTS = {
    "train": "train", "training": "train", "valid": "validation", "validation": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""Words for the parts of a data set that brings its split."""

_MOST_TYPES = 20


@dataclass(slots=True)
class Roles:
    """Columns of the interactions, and the id columns of the tables that describe items and users. ``bad`` [rows] says
    which rows lack what is read of them, or hold something else."""

    user: str
    item: str
    item_id: str
    user_id: str | None = None
    time: Time | None = None
    value: str | None = None
    type: str | None = None
    part: str | None = None
    remarks: list[str] = field(default_factory=list)
    bad: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.Boolean))


def roles_of(interactions: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame | None) -> Roles:
    """The roles of the columns. DataError if there is no column of items, or none of users."""
    remarks: list[str] = []
    item, item_id = matching(interactions, items, ITEM, remarks)
    free = [name for name in interactions.columns if name != item]
    user_id = None
    if users is not None:
        user, user_id = matching(interactions.select(free), users, USER, remarks)
    else:
        choosable = [name for name in free if not (TIME_NAMES.search(name) or VALUE_NAMES.search(name))]
        user = user_column(interactions, choosable, remarks)
    roles = Roles(user, item, item_id, user_id, remarks=remarks)
    roles.bad = sound = pl.repeat(False, len(interactions), eager=True)
    for name in (user, item):
        if (ids := interactions[name].cast(pl.String)).str.contains(r"^\d+\.0$").any():
            remarks.append(f"ids of {name!r} are texts such as {example_of(ids)}: ask the API with just these")
        _note_bad(interactions[name], sound, "", roles)
    free.remove(user)
    roles.time = _time(interactions, free, roles)
    free = [name for name in free if roles.time is None or name != roles.time.column]
    roles.part = next((name for name in free if _is_part(interactions[name])), None)
    free = [name for name in free if name != roles.part]
    remarks += _notes_on_parts(interactions, free, roles.part)
    roles.value = _value(interactions, free, roles)
    free = [name for name in free if name != roles.value]
    _note_returns(interactions, free, roles)
    roles.type = next((name for name in free if _TYPE.search(name) and _is_type(interactions[name])), None)
    return roles


def _notes_on_parts(interactions: pl.DataFrame, names: Sequence[str], part: str | None) -> Iterator[str]:
    """Remarks on the column of parts, or on those of the ``names`` that look like it."""
    if part is not None:
        if not part_words(interactions[part])["validation"]:
            yield f"no row of {part!r} validates, so the last tenth of the training part's samples does"
        return
    for name in filter(_PART.search, names):
        if "train" in interactions[name].cast(pl.String).str.to_lowercase():
            yield (
                f"{name!r} looks like parts of the data and is not used: each row needs one of the words train, "
                "validation and test, and rows of train and test must be there"
            )


def _note_returns(interactions: pl.DataFrame, names: Sequence[str], roles: Roles) -> None:
    """A remark on amounts some of which are negative: what was sent back counts like what was bought."""
    for name in filter(is_amount, names):
        negative = read_values(interactions[name]) < 0
        if negative.any():
            roles.remarks.append(
                f"{int(negative.sum()):,} of {len(negative):,} cells of {name!r} are negative, such as "
                f"{example_of(interactions[name], negative.fill_null(False))}: if these are returns, "
                f'keep = {{ "{name}" = "> 0" }} in [data.interactions] takes only the other rows'
            )


def part_words(values: pl.Series) -> dict[str, list[str]]:
    """The words of a column of parts, by part."""
    words: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for word in values.drop_nulls().unique().sort().to_list():
        words[PARTS[str(word).strip().lower()]].append(str(word))
    return words


def _time(interactions: pl.DataFrame, names: Sequence[str], roles: Roles) -> Time | None:
    """The column of times, or else one that tells the order, with remarks on what is named like a time and is none."""
    readings = {name: reading for name in names if (reading := read_times(interactions[name])) is not None}
    time = _read_time(interactions, readings, roles)
    if time is None:
        order = next((name for name in names if _is_order(interactions[name])), None)
        time = None if order is None else Time(order, "order")
    if not any(map(TIME_NAMES.search, readings)):
        for name in filter(TIME_NAMES.search, names):
            roles.remarks.append(note_on_unread(interactions[name], time))
    return time


def _read_time(interactions: pl.DataFrame, readings: Mapping[str, TimeReading], roles: Roles) -> Time | None:
    """The column of times: by its name if several hold some."""
    if not readings:
        return None
    name = max(readings, key=lambda name: (bool(TIME_NAMES.search(name)), interactions[name].n_unique()))
    reading = readings[name]
    if reading.other_format is not None:
        roles.remarks.append(
            f"days, months and years of {name!r} cannot be told apart: {reading.time.format!r} or "
            f"{reading.other_format!r}"
        )
    _note_bad(interactions[name], reading.unfit, "no time", roles)
    late = impossible_times(interactions[name], reading.time) & ~reading.unfit
    _note_cells(interactions[name], late, "in the future, or 20 years and more from most others", roles)
    return reading.time


def _note_bad(values: pl.Series, unfit: pl.Series, what: str, roles: Roles) -> None:
    """Bad rows of a column, whose cells are ``unfit`` [rows], which are ``what``, or empty, with a remark."""
    if values.null_count():
        roles.remarks.append(
            f"{values.null_count() / len(values):.2%} of the cells of {values.name!r} are empty: "
            "bad_rows_at_most leaves their rows out"
        )
        roles.bad = roles.bad | values.is_null()
    _note_cells(values, unfit, what, roles)


def _note_cells(values: pl.Series, unfit: pl.Series, what: str, roles: Roles) -> None:
    """Bad rows of a column, whose cells [rows] are ``what``, with a remark."""
    if unfit.any():
        roles.remarks.append(
            f"{int(unfit.sum()):,} of {len(values):,} cells of {values.name!r} are {what}, such as "
            f"{example_of(values, unfit)}: bad_rows_at_most leaves their rows out"
        )
        roles.bad = roles.bad | unfit


def _is_order(values: pl.Series) -> bool:
    return bool(_ORDER.search(values.name)) and not _NO_ORDER.search(values.name) and is_whole(values)


def is_whole(values: pl.Series) -> bool:
    """Whether all cells of a column that are not empty are whole numbers."""
    return values.dtype != pl.Boolean and values.cast(pl.Int64, strict=False).null_count() == values.null_count()


def _is_part(values: pl.Series) -> bool:
    if values.dtype != pl.String or values.null_count() or not _PART.search(values.name):
        return False
    words = {str(word).strip().lower() for word in values.unique().to_list()}
    return words <= PARTS.keys() and {PARTS[word] for word in words} >= {"train", "test"}


def _is_type(values: pl.Series) -> bool:
    return values.dtype == pl.String and not values.null_count() and 1 < values.n_unique() <= _MOST_TYPES


def _value(interactions: pl.DataFrame, names: Iterable[str], roles: Roles) -> str | None:
    """The column of ratings or of labels: a few different numbers, by its name if several are; of those whose names
    fit, the one with most shades."""
    candidates, refused = [], []
    for name in names:
        values = interactions[name]
        named = bool(VALUE_NAMES.search(name))
        if _NO_VALUE.search(name) or is_amount(name) or (_NO_VALUE_UNLESS_NAMED.search(name) and not named):
            continue
        if TIME_NAMES.search(name) and read_times(values) is not None:  # a second column of times, such as clicked_at
            continue
        unfit = unfit_values(values)
        if unfit is None:
            refused += [values] if named or is_opinion(values) else []
            continue
        different = set(read_values(values).drop_nulls().unique().to_list())
        if not named and not _NO_NAME.fullmatch(name) and different == {0.0, 1.0}:
            roles.remarks.append(
                f"{name!r} is true or false, and nothing says that true is good: if it says that a user liked the "
                f'item, write value = "{name}" and kind = "binary"'
            )
        elif 1 < len(different) <= MOST_VALUES or (named and len(different) > 1):
            candidates.append((named, len(different) <= MOST_VALUES, len(different) * (1 if named else -1), name))
    if not any(named for named, *_ in candidates):
        roles.remarks += [
            f"{values.name!r} may be the value and is not understood, such as {example_of(values)}: write numbers, "
            "or 0 and 1 for labels"
            for values in refused
            if values.null_count() < len(values)
        ]
    if not candidates:
        return None
    named, *_, name = max(candidates, key=lambda candidate: candidate[:3])
    _note_value(interactions[name], named, [other for *_, other in candidates if other != name], roles)
    return name


def _note_value(values: pl.Series, named: bool, others: Sequence[str], roles: Roles) -> None:
    """What is doubtful of the column of values: whether it is one, and its cells off the scale."""
    unfit = unfit_values(values)
    assert unfit is not None
    if not named:
        roles.remarks.append(
            f"{values.name!r} is only guessed to be the value: it holds {read_values(values).drop_nulls().n_unique()} "
            f"different numbers, such as {example_of(values)}. If it is none, remove value and set labels to implicit"
        )
    elif others := [other for other in others if VALUE_NAMES.search(other)]:
        roles.remarks.append(f"{values.name!r} is taken for the value; it could be {', '.join(map(repr, others))}, too")
    _note_bad(values, unfit, "no number", roles)
    _note_cells(values, off_scale(values) & ~unfit, "off the scale of the others", roles)
