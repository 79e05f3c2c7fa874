"""The column that says what was clicked: of rows of one item each, or beside lists of items."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import polars as pl

from offline.data.catalogue import DataError
from offline.impressions.item_cells import ItemCells, entries_of
from offline.impressions.role import Role, role_error
from offline.proposal.roles import VALUE_NAMES
from offline.proposal.times import read_times
from offline.proposal.values import example_of, fits, read_values

CLICK_NAMES = re.compile(r"cli(?:ck|c)|clk|klick|tapped|opened|chosen", re.I)
_WORDS = {"yes": "1", "y": "1", "click": "1", "clicked": "1", "no": "0", "n": "0", "skip": "0", "": "0"}
_ALIGNED = 0.99
"""Share of rows whose clicks must fit their items: as many of them, or among them."""
_LABELS = {"0", "1", "true", "false"}
_SEPARATORS = ("|", ";", ",", " ", None)
_SAMPLE = 2_000
"""Rows by which a column of clicks is judged."""


def clicks_of(values: pl.Series) -> pl.Series | None:
    """Whether each row was clicked, null where its cell says neither: of numbers those above 0, words such as yes and
    no, or times, where an empty cell was not clicked. None of a column that holds something else."""
    text = values.cast(pl.String).str.strip_chars().str.to_lowercase() if values.dtype == pl.String else None
    cells = values if text is None else text.replace(_WORDS).alias(values.name)
    number = read_values(cells)
    empty = values.is_null() if text is None else text.fill_null("") == ""
    if fits(cells, cells.is_not_null() & number.is_null()):
        return pl.select(pl.when(empty).then(pl.lit(False)).otherwise(number > 0)).to_series()
    return ~empty if read_times(values) is not None else None


def click_column(table: pl.DataFrame, names: Sequence[str], named: Mapping[Role, str]) -> str:
    """The column that says whether the item of a row was clicked. DataError if no column fits, or several do."""
    if Role.CLICK in named:
        if clicks_of(table[named[Role.CLICK]]) is None:
            example = example_of(table[named[Role.CLICK]])
            raise DataError(
                f"{named[Role.CLICK]!r} says of no row whether it was clicked, such as {example}: write 0 and 1"
            )
        return named[Role.CLICK]
    binary = [name for name in names if set(read_values(table[name]).drop_nulls().unique()) <= {0.0, 1.0}]
    binary = [name for name in binary if read_values(table[name]).null_count() < len(table)]
    by_name = [name for name in names if CLICK_NAMES.search(name) and clicks_of(table[name]) is not None]
    chosen = [name for name in by_name if name in binary] or by_name
    chosen = chosen or [name for name in binary if VALUE_NAMES.search(name)]
    if len(chosen) != 1:
        several = chosen or binary
        raise role_error(table, Role.CLICK, f" ({', '.join(map(repr, several))} could be)" if several else "")
    return chosen[0]


def list_clicks(
    table: pl.DataFrame, names: Sequence[str], items: ItemCells, named: Mapping[Role, str]
) -> tuple[str, bool, str | None]:
    """The column of clicks beside lists of items; whether it names the items that were clicked, and not a label for
    each; and the separator of its cells. DataError if no column fits."""
    sample = table.gather_every(max(1, len(table) // _SAMPLE))
    shown = entries_of(sample[items.column], items.separator).to_list()
    by_name = sorted(names, key=lambda name: not CLICK_NAMES.search(name))
    for name in [named[Role.CLICK]] if Role.CLICK in named else by_name:
        is_list = isinstance(sample[name].dtype, pl.List)
        for separator in ("",) if is_list else dict.fromkeys((items.separator or None, *_SEPARATORS)):
            marks = entries_of(sample[name], separator).to_list()
            rows = list(zip(shown, marks, strict=True))
            labelled = sum(len(row) == len(cell) and set(map(str.lower, cell)) <= _LABELS for row, cell in rows)
            if labelled >= _ALIGNED * len(rows):
                return name, False, separator
            if any(marks) and sum(set(cell) <= set(row) for row, cell in rows) >= _ALIGNED * len(rows):
                return name, True, separator
    if Role.CLICK in named:
        raise DataError(f"{named[Role.CLICK]!r} holds neither a label for each item of its row nor items of its row")
    raise role_error(table, Role.CLICK)
