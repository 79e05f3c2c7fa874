"""What is amiss in a table of users or items and is no reason to refuse it: ids that come twice, words among numbers.
Each is a setting of the table, with a remark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from offline.proposal.document import Described
from offline.proposal.values import example_of, fits

_MOST_NULLS = 8
"""Different words among the numbers of a table's columns up to which they are listed as nulls."""


def with_one_row_of_each(described: Described, id_column: str, remarks: list[str]) -> Described:
    """The same table, of whose ids that are described in different ways the last row counts."""
    different = _described_differently(described.table, id_column)
    if not different:
        return described
    remarks.append(
        f"{len(different):,} of {described.table[id_column].n_unique():,} ids of {described.path} are described more "
        f"than once, and differently, such as {different[0]!r}: the last row of each counts; "
        'repeated = "first" takes the first'
    )
    return replace(described, form={**described.form, "repeated": "last"})


def _described_differently(table: pl.DataFrame, id_column: str) -> Sequence[Any]:
    """Ids with rows that differ, in order of appearance."""
    rows = table.filter(table[id_column].is_not_null() & table[id_column].is_duplicated())
    first: dict[Any, tuple[Any, ...]] = {}
    different = [
        key
        for key, row in zip(rows[id_column].to_list(), rows.drop(id_column).iter_rows(), strict=True)
        if first.setdefault(key, row) != row
    ]
    return list(dict.fromkeys(different))


def with_empty_words(described: Described, id_column: str, remarks: list[str]) -> Described:
    """The same table with few words among the numbers of a column as nulls: then it is a column of numbers.

    A word that another column holds, too, stays what it is; so do many different ones, and those of a Parquet file,
    which has no setting of nulls.
    """
    table, nulls = described.table, list(described.form.get("nulls", [""]))
    for name, unfit in _almost_numbers(table, id_column):
        words = table[name].filter(unfit).unique(maintain_order=True).to_list()
        others = [other for other in table.columns if other != name and table[other].dtype == pl.String]
        is_used = any(bool(table[other].is_in(words).any()) for other in others)
        what = f"{int(unfit.sum()):,} of {len(table):,} cells of {name!r} in {described.path} are no number, such as "
        what += example_of(table[name], unfit)
        if is_used or len(words) > _MOST_NULLS or described.path.suffix.lower() in {".parquet", ".pq"}:
            remarks.append(f"{what}: it is a text, and no number to a model, until they are empty")
            continue
        nulls += [word for word in words if word not in nulls]
        remarks.append(f"{what}: they count as empty (nulls)")
        table = table.with_columns(pl.when(~unfit).then(pl.col(name)).alias(name))
    if table is described.table:
        return described
    return replace(described, form={**described.form, "nulls": nulls}, table=table)


def _almost_numbers(table: pl.DataFrame, id_column: str) -> Iterator[tuple[str, pl.Series]]:
    """Columns nearly all of whose cells are numbers, and their other cells [rows]."""
    for name in table.columns:
        if name == id_column or table[name].dtype != pl.String:
            continue
        text = table[name].str.strip_chars()
        values = text.set(text == "", None)
        unfit = values.is_not_null() & ~values.cast(pl.Float64, strict=False).is_finite().fill_null(False)
        if unfit.any() and fits(values, unfit):
            yield name, unfit
