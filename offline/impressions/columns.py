"""The columns of a file of impressions by what they hold. Contents speak first (ids that the log knows, times, clicks),
names second; what a person names is taken as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import polars as pl

from offline.data.catalogue import DataError
from offline.data.spellings import common_spelling
from offline.impressions.clicks import CLICK_NAMES, click_column, list_clicks
from offline.impressions.item_cells import ItemCells, item_cells
from offline.impressions.role import Role, Vocabulary, role_error
from offline.proposal.id_columns import ITEM, USER, matching, user_column
from offline.proposal.roles import TIME_NAMES, VALUE_NAMES, is_whole
from offline.proposal.times import TimeReading, note_on_unread, read_times
from offline.proposal.values import example_of

_SHOWN = re.compile(r"shown|impress|slate|candidate|display|recommend|items|list|served|exposed", re.I)
_PAST = re.compile(r"histor|past|recent|previous|viewed|bought|last", re.I)
_POSITION = re.compile(r"position|^pos$|rank|slot|^place$|^index$|^order$", re.I)
_REQUEST = re.compile(r"request|impression|slate|search|query|page_?view|list_?id|recommendation_?id", re.I)
_PROPENSITY = re.compile(r"propens|pscore|prob", re.I)


@dataclass(frozen=True, slots=True)
class ImpressionColumns:
    """Columns by role, and how they are read. Without ``click`` the item cells say it. In rows with lists ``click``
    holds a label for each item, or, with ``click_items``, the items that were clicked, between ``click_separator``."""

    user: str
    items: ItemCells
    time: TimeReading
    click: str | None
    click_items: bool = False
    click_separator: str | None = None
    position: str | None = None
    propensity: str | None = None
    request: str | None = None

    def lines(self) -> list[str]:
        """How each column is read, in words."""
        time, wide = self.time.time, self.items.holds_lists
        units = {"s": "unix seconds", "ms": "unix milliseconds", "iso": "ISO 8601"}
        clicks = (
            "items that were clicked" if self.click_items else "a label for each item" if wide else "clicked or not"
        )
        order = "places" if self.position else "the order of items" if wide else "the order of rows"
        same = "a row" if wide else "rows of one user and one time"
        lines = {
            "request": "rows of one id" if self.request else same,
            "user": "ids",
            "time": f"{units.get(time.unit or '', repr(time.format))}, UTC unless it says",
            "item": str(self.items),
            "position": order,
            "click": clicks if self.click else "in the item cells",
            "propensity": "of the item at its place" if self.propensity else "not given",
        }
        names = {"item": self.items.column, "time": time.column}
        columns = {role: names.get(role) or getattr(self, role, None) for role in lines}
        return [f"{role}: {f'{columns[role]!r}, ' if columns[role] else ''}{words}" for role, words in lines.items()]


def columns_of(table: pl.DataFrame, known: Vocabulary, named: Mapping[Role, str]) -> ImpressionColumns:
    """The columns of a table, ``named`` ones as they are named. DataError for a role that no column fits, or several
    do: it says which columns there are, and the option that names one."""
    if absent := [name for name in named.values() if name not in table.columns]:
        raise DataError(f"there is no column {absent[0]!r}; columns are {', '.join(map(repr, table.columns))}")
    free = [name for name in table.columns if name not in named.values()]
    items = _items(table, free, known, named)
    free = [name for name in free if name != items.column]
    time = _time(table, [name for name in free if not CLICK_NAMES.search(name)], named)
    free = [name for name in free if name != time.time.column]
    user = named.get(Role.USER) or _user(table, free, known)
    free = [name for name in free if name != user]
    propensity = named.get(Role.PROPENSITY) or _first(free, _PROPENSITY)
    free = [name for name in free if name != propensity]
    if items.holds_lists:
        if useless := [role for role in (Role.POSITION, Role.REQUEST) if role in named]:
            raise DataError(f"--{useless[0]} takes no effect: each row is a request, with its items in order")
        click, are_items, separator = (None, False, None)
        if not items.labelled or Role.CLICK in named:
            click, are_items, separator = list_clicks(table, free, items, named)
        return ImpressionColumns(user, items, time, click, are_items, separator, propensity=propensity)
    click = click_column(table, free, named)
    free = [name for name in free if name != click]
    position = next((name for name in free if _POSITION.search(name) and is_whole(table[name])), None)
    requests = (name for name in free if _REQUEST.search(name) and table[name].n_unique() < len(table))
    return ImpressionColumns(
        user,
        items,
        time,
        click,
        position=named.get(Role.POSITION) or position,
        propensity=propensity,
        request=named.get(Role.REQUEST) or next(requests, None),
    )


def _first(names: Sequence[str], pattern: re.Pattern[str]) -> str | None:
    return next((name for name in names if pattern.search(name)), None)


def _items(table: pl.DataFrame, names: Sequence[str], known: Vocabulary, named: Mapping[Role, str]) -> ItemCells:
    if Role.ITEM in named:
        values = table[named[Role.ITEM]]
        cells = item_cells(values, known.items)
        if cells is None:
            raise DataError(f"too few items are in the log{_spelling(values, known)}")
        return cells
    forms = [item_cells(table[name], known.items) for name in names]
    lists = [form for form in forms if form is not None and form.holds_lists]
    shown = [form for form in lists if form.labelled]
    shown = shown or [form for form in lists if not (_PAST.search(form.column) or CLICK_NAMES.search(form.column))]
    shown = [form for form in shown if _SHOWN.search(form.column)] or shown
    if len(shown) > 1:
        raise role_error(table, Role.ITEM, f" alone: {' and '.join(repr(form.column) for form in shown)} hold items")
    if shown:
        return shown[0]
    # numbers of users may be numbers of items as well
    free = [name for name in names if not (isinstance(table[name].dtype, pl.List) or ITEM.excludes(name))]
    try:
        column, _ = matching(table.select(free), pl.DataFrame({"item": known.items}), ITEM, [])
    except DataError:
        likely = _first(free, ITEM.names)
        why = f", by ids of the log{_spelling(table[likely], known)}" if likely else ", by ids of the log"
        raise role_error(table, Role.ITEM, why) from None
    return ItemCells(column, None, False, 1.0, 1.0)


def _spelling(values: pl.Series, known: Vocabulary) -> str:
    """The share of a column's items that the log knows, an example, and the spelling in which more would be known."""
    used = values.cast(pl.String).drop_nulls().unique(maintain_order=True).head(1000)
    strangers = used.filter(~used.is_in(known.items.implode()))
    note = common_spelling(strangers.to_list(), known.items.to_list())
    share = 1 - len(strangers) / max(1, len(used))
    return (
        f" (of {values.name!r}, such as {example_of(strangers)}, {share:.0%} are in the "
        f"log, which has {known.items[0]!r}{f'; {note}' if note else ''}: write both alike, or `refresh` first if they "
        "are new)"
    )


def _time(table: pl.DataFrame, names: Sequence[str], named: Mapping[Role, str]) -> TimeReading:
    looked = [named[Role.TIME]] if Role.TIME in named else names
    readings = {name: reading for name in looked if (reading := read_times(table[name])) is not None}
    if not readings:
        odd = [name for name in looked if TIME_NAMES.search(name) or Role.TIME in named]
        if odd:
            raise DataError(
                f"{note_on_unread(table[odd[0]], None).partition(', so rows')[0]}: write unix seconds, milliseconds or "
                "ISO 8601, or name another column, --time"
            )
        raise role_error(table, Role.TIME)
    return readings[max(readings, key=lambda name: (bool(TIME_NAMES.search(name)), table[name].n_unique()))]


def _user(table: pl.DataFrame, names: Sequence[str], known: Vocabulary) -> str:
    free = [name for name in names if not (TIME_NAMES.search(name) or VALUE_NAMES.search(name) or USER.excludes(name))]
    # a number of each row may be a number of a user as well
    numbers = [name for name in free if table[name].n_unique() == len(table) and not USER.names.search(name)]
    for looked in ([name for name in free if name not in numbers], free):
        with suppress(DataError):
            return matching(table.select(looked), pl.DataFrame({"user": known.users}), USER, [])[0]
        with suppress(DataError):
            return user_column(table, looked, [])
    raise role_error(table, Role.USER)
