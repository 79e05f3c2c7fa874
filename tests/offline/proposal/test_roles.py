"""Which column is the user, the item, the time and the value; what is unclear is said, few bad cells stop nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from offline.config import load_config
from offline.data.catalogue import DataError
from offline.data.config import InteractionsConfig
from offline.data.dataset import open_dataset
from offline.proposal.forms import form_of
from offline.proposal.roles import Roles, roles_of
from offline.proposal.times import Time, seconds_of
from offline.proposal.values import off_scale, tolerated
from tests.offline.proposal.shops import FIRST_SECOND, Shop, write
from tests.offline.proposal.test_propose import HEADER, books, items_of, proposed

__all__ = ["books"]

ROWS = 1500


def column(form: str, different: int) -> list[str]:
    """Cells that repeat, in an order in which two columns of them do not go together."""
    return [form.format(at * 7919 % different) for at in range(ROWS)]


def table(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame(columns)


ITEMS = table(asin=[f"b{at}" for at in range(40)], product_id=[f"b{at}" for at in range(40)])


def roles(interactions: pl.DataFrame, items: pl.DataFrame = ITEMS) -> Roles:
    return roles_of(interactions, items, None)


def said(proposal: Roles, *words: str) -> bool:
    """Whether a remark has all these words."""
    return any(all(word in remark for word in words) for remark in proposal.remarks)


def interactions(**columns: Any) -> pl.DataFrame:
    return table(user_id=column("u{}", 60), product_id=column("b{}", 40), **columns)


@pytest.mark.parametrize(
    ("columns", "expected", "other"),
    [
        (
            {
                "event_time": ["2023-01-01 00:00:00 UTC"] * ROWS,
                "event_type": column("{}", 3),
                "product_id": column("b{}", 40),
                "user_id": column("{}", 60),
                "user_session": column("s{}", 400),
            },
            "user_id",
            "user_session",
        ),
        (
            {"reviewerID": column("A{}", 60), "reviewerName": column("name {}", 300), "asin": column("b{}", 40)},
            "reviewerID",
            "reviewerName",
        ),
        (
            {
                "order_id": column("{}", 900),
                "customer_id": column("{}", 60),
                "session_id": column("{}", 500),
                "product_id": column("b{}", 40),
                "ts": list(range(FIRST_SECOND, FIRST_SECOND + ROWS)),
            },
            "customer_id",
            "session_id",
        ),
    ],
)
def test_a_person_comes_before_a_visit_and_a_name(columns: dict[str, Any], expected: str, other: str) -> None:
    proposal = roles(table(**columns))
    assert proposal.user == expected
    assert said(proposal, repr(expected), repr(other))


def test_user_ids_that_look_like_items_are_not_swapped() -> None:
    items = table(id=[str(at) for at in range(1, 501)])
    users, used = column("{}", 500), column("{}", 300)
    named = table(uid=[str(int(cell) + 1) for cell in users], pid=[str(int(cell) + 1) for cell in used])
    proposal = roles(named, items)
    assert (proposal.user, proposal.item) == ("uid", "pid")
    assert said(proposal, "'pid' is taken for the item", "'uid' (100%)")
    nameless = named.rename({"uid": "column_1", "pid": "column_2"}).with_columns(
        column_3=pl.Series(column("{}", 5)), column_4=pl.int_range(FIRST_SECOND, FIRST_SECOND + ROWS)
    )
    proposal = roles(nameless, items)
    assert (proposal.user, proposal.item, proposal.value) == ("column_1", "column_2", "column_3")
    assert proposal.time is not None
    assert proposal.time.column == "column_4"


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S UTC"),
        ("%d.%m.%y", "%d.%m.%y"),
        ("%y-%m-%d", "%y-%m-%d"),
        ("%m/%d/%y %H:%M", "%m/%d/%y %H:%M"),
        ("%Y-%m-%dT%H:%M:%S+00:00", None),
        ("%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %Y"),
        ("%Y年%m月%d日 %H:%M", "%Y年%m月%d日 %H:%M"),
        ("%Y年%m月%d日%H時%M分", "%Y年%m月%d日%H時%M分"),
        ("%Y년 %m월 %d일 %H:%M", "%Y년 %m월 %d일 %H:%M"),
        ("%b %d %Y", "%b %d %Y"),
        ("%Y%m%d", None),
        ("%Y%m%d%H%M", "%Y%m%d%H%M"),
        ("%Y%m%d%H%M%S", "%Y%m%d%H%M%S"),
        ("%Y/%m/%d %H:%M:%S+0900", "%Y/%m/%d %H:%M:%S%z"),
        ("%Y-%m-%d %H.%M", "%Y-%m-%d %H.%M"),
        ("%d.%m.%Y %H.%M", "%d.%m.%Y %H.%M"),
    ],
)
def test_forms_of_times(written: str, form: str | None) -> None:
    cells = [datetime.fromtimestamp(FIRST_SECOND + at * 40_000, UTC).strftime(written) for at in range(ROWS)]
    time = roles(interactions(when=cells)).time
    assert time is not None
    assert time.format == form
    seconds = seconds_of(pl.Series(cells), time).to_list()
    assert abs(seconds[0] - FIRST_SECOND) < 86_400
    assert abs(seconds[1] - seconds[0] - 40_000) < (60 if "%M" in written else 86_400)
    InteractionsConfig(paths=("a.csv",), user="u", item="i", time="when", time_unit=time.unit, time_format=time.format)


def test_some_cells_that_are_no_times() -> None:
    cells = ["soon" if at % 200 == 7 else str(FIRST_SECOND + at) for at in range(ROWS)]
    proposal = roles(interactions(at=cells))
    assert proposal.time is not None
    assert proposal.time.unit == "s"
    assert said(proposal, "8 of 1,500 cells of 'at' are no time", "'soon'")
    assert proposal.bad.sum() == 8


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([(FIRST_SECOND + at) * 10**6 for at in range(ROWS)], ("microseconds", "1,000 ")),
        ([(FIRST_SECOND + at) * 10**9 for at in range(ROWS)], ("nanoseconds", "1,000,000 ")),
        (["the other day"] * ROWS, ("named like a time", "'the other day'")),
    ],
)
def test_times_that_cannot_be_read_are_named(cells: list[Any], words: tuple[str, ...]) -> None:
    proposal = roles(interactions(event_time=cells))
    assert proposal.time is None
    assert said(proposal, "'event_time'", 'write time = "event_time"', "remove split_by from [data]", *words)
    proposal = roles(interactions(event_time=cells, position=list(range(ROWS))))
    assert proposal.time == Time("position", "order")
    assert said(proposal, "'event_time'", "rows are taken in order", *words)
    proposal = roles(interactions(event_time=cells, begun=list(range(FIRST_SECOND, FIRST_SECOND + ROWS))))
    assert proposal.time == Time("begun", "s")
    assert said(proposal, "'event_time'", "'begun' is taken for the time", *words)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("rating", ["4 of 5", "3 of 5", "1 of 5"]),
        ("feedback", ["like", "dislike", "like"]),
        ("opinion", ["like", "dislike"] * 2),
    ],
)
def test_values_that_cannot_be_read_are_named(name: str, cells: list[str]) -> None:
    proposal = roles(interactions(**{name: [cells[at % 3] for at in range(ROWS)]}))
    assert proposal.value is None
    assert said(proposal, repr(name), "not understood", repr(cells[0]))


@pytest.mark.parametrize("name", ["is_gift", "promo_flag", "store", "position", "gift", "qty", "store_number"])
def test_numbers_that_are_no_values(name: str) -> None:
    assert roles(interactions(**{name: [at % 2 for at in range(ROWS)]})).value is None


def test_a_second_time_is_no_value() -> None:
    seconds = [FIRST_SECOND + at for at in range(ROWS)]
    assert roles(interactions(clicked_at=seconds, viewed_at=seconds[::-1])).value is None


def test_a_guess_and_some_cells_that_are_no_values() -> None:
    proposal = roles(interactions(felt=["?" if at % 300 == 3 else str(at % 5 + 1) for at in range(ROWS)]))
    assert proposal.value == "felt"
    assert said(proposal, "'felt' is only guessed")
    assert said(proposal, "5 of 1,500 cells of 'felt' are no number", "'?'")
    assert not said(roles(interactions(stars=[at % 5 for at in range(ROWS)])), "guessed")


def test_true_and_false_are_labels(books: Shop, tmp_path: Path) -> None:
    rows = [(user, item, str(stars > 3), second) for user, item, stars, second in books.interactions]
    path = write(tmp_path / "clicks.csv", ("user", "book", "is_clicked", "at"), rows)
    config, _ = proposed(tmp_path, path, items_of(books, tmp_path))
    assert config.data.interactions is not None
    assert (config.data.labels.kind, config.data.interactions.value) == ("binary", "is_clicked")


def test_two_columns_of_ids_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", (), [("u1", "b1"), ("u2", "b2"), ("u1", "b3")])
    assert form_of(path)["header"] == ["column_1", "column_2"]
    twice = write(tmp_path / "twice.csv", ("user", "book"), [("u1", "b1"), ("user", "book"), ("u1", "b3")])
    assert "header" not in form_of(twice)


def test_a_quote_that_never_ends_breaks_its_row_only(tmp_path: Path) -> None:
    lines = [f'{at},"a, b",{at % 5}' for at in range(600)]
    lines[40] = '41,"a,3'
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["id,words,stars", *lines, ""]), encoding="utf-8")
    assert form_of(path) == {}


def test_cells_that_say_there_is_nothing(books: Shop, tmp_path: Path) -> None:
    described = [
        (item, title, "\\N" if at % 5 == 0 else kinds, "NA" if at % 4 == 0 else year)
        for at, (item, title, kinds, year) in enumerate(books.items)
    ]
    items = write(tmp_path / "books.csv", ("book", "title", "kinds", "year"), described)
    config, text = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, books.interactions), items)
    assert config.data.items is not None
    assert config.data.items.nulls == ("", "\\N", "NA")
    assert config.data.items.columns["year"].type == "int"
    assert "\\N" not in {word for field in config.feature_schema.item_fields for word in field.vocab}
    assert "# LOOK: cells of" in text


def test_escaped_cells_that_say_there_is_nothing(books: Shop, tmp_path: Path) -> None:
    null = "\\N"
    lines = [f'"{item}","The \\"{title}\\"",{null if year % 2 else year}' for item, title, _, year in books.items]
    items = tmp_path / "books.csv"
    items.write_text("\n".join(["book,title,year", *lines, ""]), encoding="utf-8")
    config, _ = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, books.interactions), items)
    assert config.data.items is not None
    assert (config.data.items.escape, config.data.items.nulls) == ("\\", ("", "\\N"))


def test_broken_rows_and_bad_cells_do_not_stop_it(books: Shop, tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = list(books.interactions)
    rows[100] = (*rows[100], "more", "and more")
    rows[200] = ("", *rows[200][1:])
    rows[300] = (*rows[300][:3], "yesterday")
    config, text = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, rows), items_of(books, tmp_path))
    assert config.data.interactions is not None
    assert 2 / 1500 < config.data.interactions.bad_rows_at_most < 0.01
    assert "are broken and left out" in text
    assert "'yesterday'" in text
    assert "cells of 'reader' are empty" in text


def test_the_spelling_that_would_make_ids_meet(tmp_path: Path) -> None:
    used = table(user=column("u{}", 60), article=[float(at % 40) for at in range(ROWS)])
    with pytest.raises(DataError, match=r"of the ids of 'article' in 'id', 40 of 40 would be, written .12\.0. as .12."):
        roles(used, table(id=list(range(40))))


def test_ratings_with_a_decimal_comma(books: Shop, tmp_path: Path) -> None:
    rows = [(user, item, f"{stars - 1},5", second) for user, item, stars, second in books.interactions]
    path = write(tmp_path / "ratings.csv", HEADER, rows, separator=";")
    config, _ = proposed(tmp_path, path, items_of(books, tmp_path))
    assert config.data.interactions is not None
    assert (config.data.interactions.value, config.data.interactions.decimal) == ("stars", ",")
    assert (config.feature_schema.value_min, config.feature_schema.value_max) == (0.5, 4.5)


def test_few_bad_cells_of_a_small_file(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        [f"u{at % 9}", f"b{at % 40}", at % 5 + 1, f"2024-02-01T10:{at % 60:02}"] for at in range(80)
    ]
    rows[5][3], rows[20][3], rows[50][2] = "2054-02-01T10:00", "1999-02-01T10:00", "?"
    rows[60] = rows[60][:2]
    items = write(tmp_path / "books.csv", ("book", "title"), [(f"b{at}", f"The book {at}") for at in range(40)])
    config, text = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, rows), items)
    assert config.data.interactions is not None
    assert 4 / 80 < config.data.interactions.bad_rows_at_most < 0.1
    assert "2 of 79 cells of 'at' are in the future, or 20 years" in text
    assert "1 of 79 cells of 'stars' are no number" in text


@pytest.mark.parametrize(("rows", "most"), [(5, 0), (10, 1), (20, 2), (30, 3), (80, 3), (300, 3), (1000, 10)])
def test_bad_cells_of_a_file(rows: int, most: int) -> None:
    assert int(tolerated(rows)) == most


@pytest.mark.parametrize(
    ("scale", "off"),
    [
        ((1, 2, 3, 4, 5), (99, -1)),
        ((0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4), (50, -9)),
        ((10, 20, 30, 40, 50), (500,)),
        ((0, 1), (7,)),
    ],
)
def test_values_off_the_scale(scale: Sequence[float], off: Sequence[float], books: Shop, tmp_path: Path) -> None:
    rows = [[user, item, scale[at % len(scale)], when] for at, (user, item, _, when) in enumerate(books.interactions)]
    for at, value in enumerate(off):
        rows[100 + at][2] = value
    config, text = proposed(tmp_path, write(tmp_path / "ratings.csv", HEADER, rows), items_of(books, tmp_path))
    assert (config.feature_schema.value_min, config.feature_schema.value_max) == (scale[0], scale[-1])
    assert f"{len(off)} of 1,500 cells of 'stars' are off the scale of the others" in text


def test_a_scale_with_rare_ends() -> None:
    stars = [5] * 990 + [1, 2, 3, 4, 4] * 2
    assert not off_scale(pl.Series("stars", stars)).any()
    assert not off_scale(pl.Series("seconds", [at * at for at in range(1000)])).any()
    assert not off_scale(pl.Series("stars", [-1] * 200 + [1, 2, 3, 4, 5] * 200)).any()


@pytest.mark.parametrize("name", ["returned", "refunded", "logged_in", "mobile"])
def test_true_or_false_is_no_opinion_by_itself(name: str) -> None:
    proposal = roles(interactions(**{name: ["true" if at % 9 == 0 else "false" for at in range(ROWS)]}))
    assert proposal.value is None
    assert said(proposal, repr(name), "nothing says that true is good")


@pytest.mark.parametrize("name", ["menge", "amount", "quantidade", "dur\u00e9e_s", "weekday", "device"])
def test_amounts_are_no_values_and_no_users(name: str) -> None:
    cells = [at * 7919 % 13 for at in range(ROWS)]
    proposal = roles(interactions(**{name: cells}))
    assert (proposal.user, proposal.value) == ("user_id", None)
    assert not proposal.remarks


@pytest.mark.parametrize(
    ("person", "thing", "value"),
    [
        ("usuario_id", "producto_id", "puntuaci\u00f3n"),
        ("lecteur", "livre_id", "note"),
        ("utilizador", "filme", "avalia\u00e7\u00e3o"),
        ("utente_id", "libro", "voto"),
        ("klant_nr", "boek", "waardering"),
        ("Kundennummer", "Artikel", "Sterne"),
    ],
)
def test_columns_in_other_languages(person: str, thing: str, value: str) -> None:
    used = {thing: column("{}", 40), person: column("{}", 60), value: [at % 5 for at in range(ROWS)]}
    proposal = roles(table(**used), table(id=[str(at) for at in range(40)], price=list(range(40))))
    assert (proposal.user, proposal.item, proposal.value) == (person, thing, value)
    assert not said(proposal, "too")


def test_returns_are_said(tmp_path: Path, books: Shop) -> None:
    amounts = [-1 if at % 50 == 0 else at % 3 + 1 for at in range(ROWS)]
    assert said(roles(interactions(quantity=amounts)), "30 of 1,500 cells of 'quantity' are negative", "-1", "> 0")
    assert not roles(interactions(quantity=[1] * ROWS)).remarks
    rows = [(user, item, amounts[at], when) for at, (user, item, _, when) in enumerate(books.interactions)]
    path = write(tmp_path / "bought.csv", ("reader", "book", "quantity", "at"), rows)
    _, text = proposed(tmp_path, path, items_of(books, tmp_path))
    condition = 'keep = { "quantity" = "> 0" }'
    assert condition in text
    (tmp_path / "kept.toml").write_text(text.replace("[data.interactions]\n", f"[data.interactions]\n{condition}\n"))
    config = load_config(tmp_path / "kept.toml")
    assert "1,470 interactions" in str(open_dataset(config.data, tmp_path / "raw").check(config.feature_schema).facts)


def test_ids_with_a_point_are_said() -> None:
    proposal = roles(table(user_id=column("{}.0", 60), product_id=column("b{}", 40)))
    assert said(proposal, "'user_id'", "'0.0'", "the API")


def test_a_cookie_is_a_user_and_a_dwell_time_is_none() -> None:
    cells = {"path": column("b{}", 40), "dwell": column("{}", 400), "cookie": column("{:06x}", 60)}
    proposal = roles(table(**cells), table(url=[f"b{at}" for at in range(40)]))
    assert (proposal.user, proposal.remarks) == ("cookie", [])


def test_of_two_opinions_the_one_with_most_shades() -> None:
    proposal = roles(interactions(clicked=[at % 2 for at in range(ROWS)], stars=[at % 5 for at in range(ROWS)]))
    assert proposal.value == "stars"
    assert said(proposal, "'stars' is taken for the value", "'clicked'")
