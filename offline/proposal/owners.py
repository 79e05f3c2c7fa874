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
    """The same table, of whose ids with different features the last row counts."""
    columns = [column.column for column in described.features.columns] or described.table.columns
    different = _described_differently(described.table.select(list(dict.fromkeys([id_column, *columns]))), id_column)
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

    A word that a column of texts or ids holds, too, stays what it is; so do many cells, many different words, and those
    of a Parquet file, which has no setting of nulls.
    """
    table, nulls = described.table, list(described.form.get("nulls", [""]))
    mixed = dict(_mixed_with_words(table, id_column))
    texts = [name for name in table.columns if name not in mixed and table[name].dtype == pl.String]
    is_parquet = described.path.suffix.lower() in {".parquet", ".pq"}
    for name, unfit in sorted(mixed.items(), key=lambda entry: not fits(table[entry[0]], entry[1])):
        different = table[name].filter(unfit).unique(maintain_order=True).to_list()
        words = [word for word in different if word not in nulls]
        what = (
            f"{int(unfit.sum()):,} of {len(table):,} cells of {name!r} in {described.path} are no number, such as "
            f"{example_of(table[name], unfit)}"
        )
        is_used = any(bool(table[text].is_in(words).any()) for text in texts)
        if words and (is_used or is_parquet or len(words) > _MOST_NULLS or not fits(table[name], unfit)):
            advice = "leave them empty" if is_parquet else "list them in nulls, or leave them empty,"
            remarks.append(f"{what}: it is a text to a model; {advice} and set its type and a field to have numbers")
            continue
        nulls += words
        remarks.append(f"{what}: they count as empty (nulls)")
    if nulls == described.form.get("nulls", [""]):
        return described
    empty = [pl.when(~table[name].is_in(nulls)).then(pl.col(name)).alias(name) for name in mixed]
    return replace(described, form={**described.form, "nulls": nulls}, table=table.with_columns(empty))


def _mixed_with_words(table: pl.DataFrame, id_column: str) -> Iterator[tuple[str, pl.Series]]:
    """Columns of numbers with other cells [rows] among them: few of these, or few different ones."""
    for name in table.columns:
        if name == id_column or table[name].dtype != pl.String:
            continue
        text = table[name].str.strip_chars()
        values = text.set(text == "", None)
        unfit = values.is_not_null() & ~values.cast(pl.Float64, strict=False).is_finite().fill_null(False)
        filled = len(values) - values.null_count()
        is_mostly_number = int(unfit.sum()) <= filled / 2 and table[name].filter(unfit).n_unique() <= _MOST_NULLS
        if unfit.any() and (fits(values, unfit) or is_mostly_number):
            yield name, unfit
