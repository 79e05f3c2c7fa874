"""Files of impressions that nobody has described: each form tells the same requests, or what is not understood."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.data.catalogue import DataError
from offline.impressions.reading import Impressions, read_impressions
from offline.impressions.role import Role, Vocabulary
from tests.damage import FEW, damaged, unless
from tests.offline.impressions.files import Shown, requests
from tests.offline.proposal.shops import write

REQUESTS = requests()
KNOWN = Vocabulary(pl.Series([f"u{at}" for at in range(18)]), pl.Series([f"i{at}" for at in range(29)]))
"""All but two users and an item."""


def read(path: Path, **named: str) -> Impressions:
    return read_impressions(path, KNOWN, {Role(role): column for role, column in named.items()})


def requests_of(impressions: Impressions) -> list[Shown]:
    """The requests that were read."""
    rows = impressions.requests.select("user", "time_ms", "items", "clicked").iter_rows()
    return [
        Shown(user, time_ms // 1000, tuple(items), tuple(place for place, click in enumerate(clicked) if click))
        for user, time_ms, items, clicked in rows
    ]


def long_rows(requested: Sequence[Shown] = REQUESTS) -> list[tuple[Any, ...]]:
    """request, user, time, item, place, clicked, propensity."""
    return [
        (f"r{number}", shown.user, shown.when, item, place + 1, label, 0.5 - place / 100)
        for number, shown in enumerate(requested)
        for place, (item, label) in enumerate(zip(shown.items, shown.labels, strict=True))
    ]


LONG = ("request_id", "user_id", "shown_at", "item_id", "position", "clicked", "propensity")


@settings(FEW, max_examples=4)  # of a third of a second each
@given(damaged("\n".join([",".join(LONG), *(",".join(map(str, row)) for row in long_rows(REQUESTS[:4]))]).encode()))
def test_whatever_a_file_holds_is_read_or_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "any.csv").write_bytes(raw)
    unless(DataError, read, tmp_path / "any.csv")


@FEW
@given(data=st.data())
def test_whatever_a_parquet_file_holds_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "any.parquet"
    pl.DataFrame(long_rows(REQUESTS[:4]), schema=list(LONG), orient="row").write_parquet(path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    unless(DataError, read, path)


def test_a_row_for_each_item_in_any_order(tmp_path: Path) -> None:
    rows = sorted(long_rows(), key=lambda row: (row[4], row[3]))
    impressions = read(write(tmp_path / "long.csv", LONG, rows))
    assert requests_of(impressions) == REQUESTS
    assert impressions.requests["propensity"].to_list() == [0.5] * len(REQUESTS)
    assert impressions.remarks == ()
    assert "request: 'request_id', rows of one id" in impressions.lines
    assert "time: 'shown_at', ISO 8601, UTC unless it says" in impressions.lines
    assert "position: 'position', places" in impressions.lines


def test_without_requests_and_places_rows_of_a_user_and_a_time_are_one(tmp_path: Path) -> None:
    rows = [(row[1], shown.second, row[3], "yes" if row[5] else "no") for shown, row in _with_request()]
    path = write(tmp_path / "plain.tsv.gz", (), [])
    path.write_bytes(gzip.compress(_text(("visitor", "ts", "product", "click"), rows, "\t").encode()))
    impressions = read(path)
    assert requests_of(impressions) == REQUESTS
    assert "request: rows of one user and one time" in impressions.lines
    assert "position: the order of rows" in impressions.lines


def test_clicks_may_be_times_or_counts(tmp_path: Path) -> None:
    times = [(*row[:5], row[2] if row[5] else "") for row in long_rows()]
    assert requests_of(read(write(tmp_path / "times.csv", (*LONG[:5], "clicked_at"), times))) == REQUESTS
    counts = [(*row[:5], 3 * row[5]) for row in long_rows()]
    assert requests_of(read(write(tmp_path / "counts.csv", (*LONG[:5], "clicks"), counts))) == REQUESTS


@pytest.mark.parametrize("prefix", ["u", ""])
def test_the_lines_of_mind(tmp_path: Path, prefix: str) -> None:
    """Users may be numbers, and the number of a row that of a user."""
    rows = [
        (
            number,
            shown.user.replace("u", prefix),
            shown.when,
            "i1 i2 i3" if number % 2 else "",
            " ".join(f"{item}-{label}" for item, label in zip(shown.items, shown.labels, strict=True)),
        )
        for number, shown in enumerate(REQUESTS)
    ]
    known = Vocabulary(pl.Series([f"{prefix}{at}" for at in range(60)]), KNOWN.items)
    impressions = read_impressions(write(tmp_path / "behaviors.tsv", (), rows, separator="\t"), known, {})
    expected = [replace(shown, user=shown.user.replace("u", prefix)) for shown in REQUESTS]
    assert requests_of(impressions) == expected
    assert any("'column_5', items between spaces, each with -1" in line for line in impressions.lines)


@pytest.mark.parametrize("separator", ["|", ";", ", "])
def test_lists_beside_the_items_that_were_clicked(tmp_path: Path, separator: str) -> None:
    rows = [
        (shown.user, shown.when, separator.join(shown.items), separator.join(shown.items[at] for at in shown.clicked))
        for shown in REQUESTS
    ]
    path = write(tmp_path / "lists.csv", ("user", "time", "shown_items", "clicked_items"), rows)
    assert requests_of(read(path)) == REQUESTS


def test_arrays_beside_labels(tmp_path: Path) -> None:
    rows = [(shown.user, shown.when, json.dumps(shown.items), json.dumps(shown.labels)) for shown in REQUESTS]
    assert requests_of(read(write(tmp_path / "arrays.csv", ("user", "time", "items", "clicks"), rows))) == REQUESTS


def test_parquet_with_lists(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "member": [shown.user for shown in REQUESTS],
            "moment_ms": [shown.second * 1000 for shown in REQUESTS],
            "slate": [list(shown.items) for shown in REQUESTS],
            "clicked": [shown.labels for shown in REQUESTS],
            "propensities": [[0.25, *[0.1] * (len(shown.items) - 1)] for shown in REQUESTS],
        }
    )
    table.write_parquet(tmp_path / "wide.parquet")
    impressions = read(tmp_path / "wide.parquet")
    assert requests_of(impressions) == REQUESTS
    assert impressions.requests["propensity"].to_list() == [0.25] * len(REQUESTS)


def test_named_columns_are_taken(tmp_path: Path) -> None:
    rows = [(row[1], row[2], "2001-02-03", row[3], row[5], 1 - row[5]) for row in long_rows()]
    path = write(tmp_path / "odd.csv", ("user", "a_time", "b_time", "item", "x", "y"), rows)
    with pytest.raises(DataError, match=r"what was clicked \('x', 'y' could be\); columns are .* name it, --click"):
        read(path)
    assert requests_of(read(path, click="x", time="a_time")) == REQUESTS
    with pytest.raises(DataError, match=r"there is no column 'z'; columns are 'user', "):
        read(path, click="z")


def test_an_item_that_is_shown_twice_counts_once(tmp_path: Path) -> None:
    again = [(*row[:4], 9, 1, row[6]) for row in long_rows() if row[4] == 1]
    first = [Shown(shown.user, shown.second, shown.items, tuple(sorted({0, *shown.clicked}))) for shown in REQUESTS]
    assert requests_of(read(write(tmp_path / "twice.csv", LONG, [*long_rows(), *again]))) == first


def test_bad_rows_are_left_out_and_said(tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = [
        *long_rows(),
        ("r999", "u1", "then", "i1", 1, 0, 0.5),
        ("r998", "", REQUESTS[0].when, "i1", 1, 0, 0.5),
    ]
    impressions = read(write(tmp_path / "bad.csv", LONG, rows))
    assert requests_of(impressions) == REQUESTS
    assert [remark.partition(": ")[2] for remark in impressions.remarks] == [
        "'user_id' is empty",
        "'shown_at' is no time",
    ]


def test_unread_roles_are_named_with_the_columns_and_the_option(tmp_path: Path) -> None:
    rows = long_rows()
    no_time = write(tmp_path / "time.csv", ("user", "item", "clicked"), [(row[1], row[3], row[5]) for row in rows])
    with pytest.raises(DataError, match=r"time of each impression; columns are 'user', 'item', 'clicked': .*--time"):
        read(no_time)
    fine = [(row[1], shown.second * 1_000_000, row[3], row[5]) for shown, row in _with_request()]
    with pytest.raises(DataError, match=r"'ts' holds microseconds.*--time"):
        read(write(tmp_path / "fine.csv", ("user", "ts", "item", "clicked"), fine))
    several = [(shown.user, shown.when, "|".join(shown.items), "|".join(shown.items)) for shown in REQUESTS]
    with pytest.raises(DataError, match=r"alone: 'a' and 'b' hold items; .*--item"):
        read(write(tmp_path / "several.csv", ("user", "time", "a", "b"), several))


def test_ids_that_never_meet_are_told_with_their_spelling(tmp_path: Path) -> None:
    rows = [(*row[:3], row[3].upper(), *row[4:]) for row in long_rows()]
    with pytest.raises(
        DataError, match=r"by ids of the log \(of 'item_id', such as 'I.*, 0% are.*written in lower case"
    ):
        read(write(tmp_path / "upper.csv", LONG, rows))
    with pytest.raises(DataError, match=r"too few items are in the log \(of 'item_id'"):
        read(tmp_path / "upper.csv", item="item_id")


def test_numbers_of_users_are_not_taken_for_items(tmp_path: Path) -> None:
    known = Vocabulary(*(pl.Series([str(at) for at in range(40)]) for _ in range(2)))
    rows = [(row[1][1:], row[2], row[3][1:], row[5]) for row in long_rows()]
    path = write(tmp_path / "numbers.csv", ("customer", "time", "product", "clicked"), rows)
    columns = read_impressions(path, known, {}).lines
    assert {"user: 'customer', ids", "item: 'product', an item in each row"} <= {*columns}
    other = [(user, time, f"p-{item}", label) for user, time, item, label in rows]
    with pytest.raises(DataError, match=r"no column is recognised as that of items .* name it, --item"):
        read_impressions(write(tmp_path / "other.csv", ("customer", "time", "product", "clicked"), other), known, {})


def test_files_by_which_no_order_can_be_judged(tmp_path: Path) -> None:
    def refused(name: str, rows: Sequence[tuple[Any, ...]], words: str) -> None:
        with pytest.raises(DataError, match=words):
            read(write(tmp_path / name, LONG, rows))

    refused("none.csv", [(*row[:5], 0, 0.5) for row in long_rows()], r"none of 300 items was clicked, by 'clicked'")
    refused("all.csv", [(*row[:5], 1, 0.5) for row in long_rows()], r"all 300 items were clicked.*and not clicked")
    refused("single.csv", [row for row in long_rows() if row[4] == 1], r"each of 60 requests shows one item")
    refused(
        "odd.csv", [(*row[:6], 1.5) for row in long_rows()], r"'propensity' holds 1.5, and propensities are above 0"
    )
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "absent.csv")


def _with_request() -> list[tuple[Shown, tuple[Any, ...]]]:
    return [(REQUESTS[int(row[0][1:])], row) for row in long_rows()]


def _text(header: Sequence[str], rows: Sequence[Sequence[Any]], separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in (header, *rows))
