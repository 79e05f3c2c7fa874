"""A file of impressions as requests: who was shown which items when, in which order, and what was clicked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from offline.data.catalogue import DataError
from offline.impressions.clicks import clicks_of
from offline.impressions.columns import ImpressionColumns, columns_of
from offline.impressions.item_cells import entries_of, label_of, without_labels
from offline.impressions.role import Role, Vocabulary
from offline.proposal.propose import read_described
from offline.proposal.times import impossible_times, seconds_of
from offline.proposal.values import example_of, read_values

_MOST_LEFT_OUT = 0.5
"""Share of the rows of a file that may be left out; more, and the file is not understood."""


@dataclass(frozen=True, slots=True)
class Impressions:
    """Logged requests, in order of time.

    ``requests``  a row each: "user", "time_ms", "items" (a list of ids in the order shown, each once), "clicked" (a
                  list of truth values), "propensity" (of the first item at its place; null where not given)
    ``lines``     how each column was read
    ``remarks``   what was left out or is doubtful
    """

    requests: pl.DataFrame
    lines: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def items(self) -> int:
        """Items shown, over all requests."""
        return int(self.requests["items"].list.len().sum())

    @property
    def clicks(self) -> int:
        return int(self.requests["clicked"].list.sum().sum())


def read_impressions(path: Path, known: Vocabulary, named: Mapping[Role, str]) -> Impressions:
    """The impressions in a text or Parquet file of whatever form; ``named`` columns are taken as they are named.
    DataError says what is not understood, and what can be done."""
    remarks: list[str] = []
    table = read_described(path, remarks).table
    remarks = [remark.partition(": ")[0] for remark in remarks]  # then comes what a configuration could say
    try:
        columns = columns_of(table, known, named)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    rows, bad = _rows_of_lists(table, columns) if columns.items.holds_lists else _rows(table, columns)
    remarks += _left_out(path, table, bad)
    if columns.time.other_format is not None:
        remarks.append(f"days and months of {columns.time.time.column!r} may also be {columns.time.other_format!r}")
    impressions = Impressions(_requests(rows), tuple(columns.lines()), tuple(remarks))
    _check(path, impressions, columns)
    return impressions


def _rows(table: pl.DataFrame, columns: ImpressionColumns) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """A row for each shown item of a file with a row for each, and the rows that are bad, by the fault."""
    assert columns.click is not None
    clicked = clicks_of(table[columns.click])
    assert clicked is not None
    time_ms, bad = _times(table, columns)
    bad |= {f"{columns.click!r} says neither clicked nor not": clicked.is_null()}
    order = pl.int_range(len(table), eager=True).cast(pl.Float64)
    if columns.position is not None:
        order = read_values(table[columns.position])
        bad |= {f"{columns.position!r} is no place": order.is_null()}
    item = table[columns.items.column].cast(pl.String)
    bad |= {f"{columns.items.column!r} is empty": item.is_null()}
    user = table[columns.user].cast(pl.String)
    request = user if columns.request is None else table[columns.request].cast(pl.String)
    moment = time_ms if columns.request is None else pl.repeat(0, len(table), eager=True)
    rows = pl.DataFrame(
        {
            "request": request, "moment": moment, "user": user, "time_ms": time_ms, "item": item, "clicked": clicked,
            "order": order, "propensity": _propensities(table, columns),
        }
    )  # fmt: skip
    return rows.filter(_sound(bad)), bad


def _rows_of_lists(table: pl.DataFrame, columns: ImpressionColumns) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """The same of a file with a row for each request."""
    time_ms, bad = _times(table, columns)
    shown = entries_of(table[columns.items.column], columns.items.separator)
    bad |= {f"{columns.items.column!r} holds no items": shown.list.len() == 0}
    items, clicked = shown.to_list(), []
    if columns.click is None:
        clicked = [label_of(pl.Series(row, dtype=pl.String)).to_list() for row in items]
        items = [without_labels(pl.Series(row, dtype=pl.String)).to_list() for row in items]
    else:
        marks = entries_of(table[columns.click], columns.click_separator).to_list()
        if columns.click_items:
            clicked = [[item in chosen for item in row] for row, chosen in zip(items, map(set, marks), strict=True)]
            others = [not set(chosen) <= set(row) for row, chosen in zip(items, marks, strict=True)]
            bad |= {f"{columns.click!r} names an item that was not shown": pl.Series(others, dtype=pl.Boolean)}
        else:
            clicked = [[mark.lower() in ("1", "true") for mark in row] for row in marks]
            unlike = [len(row) != len(each) for row, each in zip(items, clicked, strict=True)]
            bad |= {f"{columns.click!r} has not as many labels as items": pl.Series(unlike, dtype=pl.Boolean)}
    number = pl.int_range(len(table), eager=True)
    rows = pl.DataFrame(
        {
            "request": number, "moment": number, "user": table[columns.user].cast(pl.String), "time_ms": time_ms,
            "item": pl.Series(items, dtype=pl.List(pl.String)),
            "clicked": pl.Series(clicked, dtype=pl.List(pl.Boolean)), "propensity": _propensities(table, columns),
        }
    )  # fmt: skip
    rows = rows.filter(_sound(bad)).explode("item", "clicked")
    return rows.with_columns(order=pl.int_range(pl.len()).cast(pl.Float64)), bad


def _times(table: pl.DataFrame, columns: ImpressionColumns) -> tuple[pl.Series, dict[str, pl.Series]]:
    """Unix milliseconds [rows], and bad rows by the fault: times that are none, and users that are empty."""
    time = columns.time.time
    values = table[time.column]
    seconds = seconds_of(values, time)
    impossible = impossible_times(values, time) & seconds.is_not_null()
    bad = {
        f"{columns.user!r} is empty": table[columns.user].is_null(),
        f"{time.column!r} is no time": seconds.is_null() | columns.time.unfit,
        f"{time.column!r} is in the future, or 20 years and more from most others": impossible,
    }
    return (seconds * 1000).round().cast(pl.Int64, strict=False), bad


def _propensities(table: pl.DataFrame, columns: ImpressionColumns) -> pl.Series:
    """The propensity of each row's item, or of the first of its list; null where there is none. DataError if some are
    not in 0..1."""
    if columns.propensity is None:
        return pl.repeat(None, len(table), dtype=pl.Float64, eager=True)
    values = table[columns.propensity]
    if isinstance(values.dtype, pl.List):
        values = values.cast(pl.List(pl.Float64)).list.first()
    elif columns.items.holds_lists and values.dtype == pl.String:
        first = [row[0] if row else None for row in entries_of(values, columns.items.separator).to_list()]
        values = pl.Series(values.name, first, pl.String)
    number = read_values(values)
    odd = ~number.is_between(0, 1, closed="right").fill_null(True)
    if odd.any():
        raise DataError(
            f"{columns.propensity!r} holds {example_of(number, odd)}, and propensities are above 0 and at most 1: "
            "the probability with which the item was put at its place"
        )
    return number


def _sound(bad: Mapping[str, pl.Series]) -> pl.Series:
    """The rows without any fault."""
    return ~pl.select(pl.any_horizontal(*(rows.fill_null(True) for rows in bad.values()))).to_series()


def _left_out(path: Path, table: pl.DataFrame, bad: Mapping[str, pl.Series]) -> Iterator[str]:
    """A line for each fault of rows. DataError if too many rows have one."""
    sound = int(_sound(bad).sum())
    lines = [
        f"{int(rows.sum()):,} of {len(table):,} rows are left out: {fault}" for fault, rows in bad.items() if rows.any()
    ]
    if sound < (1 - _MOST_LEFT_OUT) * len(table):
        raise DataError(f"{path}: only {sound:,} of {len(table):,} rows can be read: {'; '.join(lines)}")
    yield from lines


def _requests(rows: pl.DataFrame) -> pl.DataFrame:
    """Requests of rows of shown items: those of one request, user and moment, in their order, each item once."""
    key: Sequence[str] = ("request", "moment", "user")
    ordered = rows.with_row_index("row").sort("order", "row")
    once = ordered.group_by(*key, "item", maintain_order=True).agg(
        pl.col("time_ms").min(), pl.col("clicked").any(), pl.col("propensity").first(), pl.col("row").min()
    )
    grouped = once.group_by(*key, maintain_order=True).agg(
        pl.col("time_ms").min(),
        pl.col("row").min(),
        pl.col("item").alias("items"),
        pl.col("clicked"),
        pl.col("propensity").first(),
    )
    return grouped.sort("time_ms", "row").select("user", "time_ms", "items", "clicked", "propensity")


def _check(path: Path, impressions: Impressions, columns: ImpressionColumns) -> None:
    """DataError where no order could be judged."""
    shown, clicks, requests = impressions.items, impressions.clicks, len(impressions.requests)
    where = "the item cells" if columns.click is None else repr(columns.click)
    if shown == requests:
        remedy = (
            "rows of one user and one time are a request: if its items have different times, name the column of "
            "requests, --request"
        )
        if columns.items.holds_lists or columns.request is not None:
            remedy = "log the whole list that was shown"
        raise DataError(f"{path}: each of {requests:,} requests shows one item, so no order can be compared; {remedy}")
    if not clicks:
        raise DataError(f"{path}: none of {shown:,} items was clicked, by {where}: is it the right column? See --click")
    if clicks == shown:
        raise DataError(
            f"{path}: all {shown:,} items were clicked, by {where}: log what was shown and not clicked, too"
        )
