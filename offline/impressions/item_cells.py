"""The cells of a column as items that were shown: one item each, a list, or a list that says which were clicked."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from offline.data.notations import ARRAY, array_of

_SEPARATORS = ("|", ";", ",", " ")
_SAMPLE = 2_000
"""Cells by which a column is judged."""
_LABEL = r"-[01]$"
_LABELLED = 0.99
"""Share of entries that end in -0 or -1 where that says whether they were clicked."""
_LEAST_OVERLAP = 0.5
_LEAST_ENTRIES = 1.2
"""Entries of a cell, on average, from which on a column holds lists."""


@dataclass(frozen=True, slots=True)
class ItemCells:
    """The form of a column's cells: ``separator`` stands between entries, ``ARRAY`` of arrays in text, "" of a list
    column, None of one entry each. In ``labelled`` ones each entry ends in -1 if it was clicked, else in -0. ``known``
    is the share of their items that the log knows, ``entries`` how many there are in a cell."""

    column: str
    separator: str | None
    labelled: bool
    known: float
    entries: float

    @property
    def holds_lists(self) -> bool:
        return self.separator is not None

    def __str__(self) -> str:
        if self.separator is None:
            return "an item in each row"
        words = {ARRAY: "arrays of items", "": "lists of items", " ": "items between spaces"}
        text = words.get(self.separator, f"items between {self.separator!r}")
        return f"{text}, each with -1 if it was clicked, else -0" if self.labelled else text


def item_cells(values: pl.Series, items: pl.Series) -> ItemCells | None:
    """The form in which most entries of a column are known ``items``; None if in none half of them are."""
    sample = values.drop_nulls()
    sample = sample.gather_every(max(1, len(sample) // _SAMPLE))
    forms = []
    for separator in _forms(sample):
        lists = entries_of(sample, separator)
        entries = lists.explode().drop_nulls()
        if not len(entries) or (separator is not None and len(entries) < _LEAST_ENTRIES * len(sample)):
            continue
        plain, bare = _known(entries, items), _known(without_labels(entries), items)
        labelled = float(entries.str.contains(_LABEL).mean() or 0.0) >= _LABELLED and bare > plain  # type: ignore[arg-type]
        forms.append(ItemCells(values.name, separator, labelled, max(plain, bare), len(entries) / len(sample)))
    best = max(forms, key=lambda form: form.known, default=None)
    return best if best is not None and best.known >= _LEAST_OVERLAP else None


def entries_of(values: pl.Series, separator: str | None) -> pl.Series:
    """The entries [rows] of each cell, lists of texts; an empty list of an empty cell, or of one that is no array."""
    if separator == "":
        rows = values.cast(pl.List(pl.String)).to_list()
        return pl.Series(values.name, [row or [] for row in rows], pl.List(pl.String))
    text = values.cast(pl.String)
    if separator is None:
        cells = [[] if cell is None or not cell.strip() else [cell] for cell in text.to_list()]
    elif separator == ARRAY:
        cells = [array_of(cell) or [] for cell in text.to_list()]
    else:
        parts = ((cell or "").split(None if separator == " " else separator) for cell in text.to_list())
        cells = [[part.strip() for part in row if part.strip()] for row in parts]
    return pl.Series(values.name, cells, pl.List(pl.String))


def without_labels(entries: pl.Series) -> pl.Series:
    """Entries without the -0 or -1 at their end."""
    return entries.str.replace(_LABEL, "")


def label_of(entries: pl.Series) -> pl.Series:
    """Whether entries end in -1."""
    return entries.str.ends_with("-1")


def _forms(sample: pl.Series) -> tuple[str | None, ...]:
    """Separators that the cells may have."""
    if isinstance(sample.dtype, (pl.List, pl.Array)):
        return ("",)
    if sample.dtype.is_integer():
        return (None,)
    if sample.dtype != pl.String:
        return ()
    if (sample.str.contains(r"^\s*\[.*\]\s*$").mean() or 0.0) > 0.9:  # type: ignore[operator]
        return (ARRAY,)
    return (None, *_SEPARATORS)


def _known(entries: pl.Series, items: pl.Series) -> float:
    return float(entries.is_in(items.implode()).mean() or 0.0)  # type: ignore[arg-type]
