"""The user's own files: a broken rule is told with file, row, column and value; the usual formats are read."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offline.data.catalogue import DataError
from offline.data.rules import RULES
from tests.damage import FEW
from tests.offline.data import shop

HEADER = "reader,book,stars,at\n"
GOOD = HEADER + "r1,b1,5,1700000000\nr2,b2,2,1700000100\n"

INTERACTIONS = [
    # what the file holds, settings, rule, what the finding says after the file's name
    (GOOD + "r3,b1,five,1700000000\n", {}, "value_number", ", row 3, column 'stars': 'five'"),
    (GOOD + "r3,b1,,1700000000\n", {}, "value_number", ", row 3, column 'stars': ''"),
    (GOOD + "r3,b1,nan,1700000000\n", {}, "value_number", ", row 3, column 'stars': 'nan'"),
    (GOOD + "r3,b1,-inf,1700000000\n", {}, "value_number", ", row 3, column 'stars': '-inf'"),
    (GOOD + "r3,b1,7,1700000000\n", {}, "value_range", ", row 3: 7.0"),
    (GOOD + ",b1,5,1700000000\n", {}, "id_empty", ", row 3, column 'reader': ''"),
    (GOOD + "r3,,5,1700000000\n", {}, "id_empty", ", row 3, column 'book': ''"),
    (GOOD + f"r3,{'é' * 129},5,1700000000\n", {}, "id_long", ", row 3, column 'book': 'éé"),
    (GOOD + "r\t3,b1,5,1700000000\n", {}, "id_control", ", row 3, column 'reader': 'r\\t3'"),
    (GOOD + "r3 ,b1,5,1700000000\n", {}, "id_spaces", ", row 3, column 'reader': 'r3 '"),
    (GOOD + "null,b1,5,1700000000\n", {}, "id_nobody", ", row 3, column 'reader': 'null'"),
    (GOOD + "r1,NaN,5,1700000000\n", {}, "id_nobody", ", row 3, column 'book': 'NaN'"),
    (GOOD + "r3,b1,5,yesterday\n", {}, "time_value", ", row 3, column 'at': 'yesterday'"),
    (GOOD + "r3,b1,5,\n", {}, "time_value", ", row 3, column 'at': ''"),
    (GOOD + "r3,b1,5,inf\n", {}, "time_value", ", row 3, column 'at': 'inf'"),
    (GOOD + "r3,b1,5,-5\n", {}, "time_negative", ", row 3, column 'at': '-5'"),
    (GOOD + "r3,b1,5,1700000000000\n", {}, "time_unit", ", row 3, column 'at': '1700000000000'"),
    (GOOD, {"time_unit": "ms"}, "time_unit", ", row 1, column 'at': '1700000000'"),
    (GOOD + "r3,b1,5,1700000000000000\n", {"time_unit": "ms"}, "time_unit", ", row 1"),
    (GOOD, {"time_unit": "iso"}, "time_value", ", row 1, column 'at': '1700000000'"),
    (GOOD + "nobody,b1,5,1700000000\n", {}, "user_undescribed", ", row 3: 'nobody'"),
    (GOOD + "r1,nothing,5,1700000000\n", {}, "item_undescribed", ", row 3: 'nothing'"),
    (GOOD + "r1,b1,5,1700000000\n", {}, "interaction_repeated", ", row 3: ('r1', 'b1', 5.0, 1700000000000)"),
    (HEADER, {}, "no_rows", ""),
    ("", {}, "header", ""),
    (GOOD, {"value": "rating"}, "missing_column", ", column 'rating': columns are 'reader', 'book', 'stars', 'at'"),
    (GOOD, {"keep": {"event": "click"}}, "missing_column", ", column 'event'"),
    (GOOD.replace(",", ";"), {}, "separator", ": ',' finds the one column 'reader;book;stars;at', perhaps it is ';'"),
    ("reader,book,book,at\n1,2,3,4\n", {}, "header", ": columns are ['reader', 'book', 'book', 'at']"),
    ("reader,,stars,at\n1,2,3,4\n", {}, "header", ": columns are ['reader', '', 'stars', 'at']"),
    (GOOD + "r3,b1,5\n", {}, "row_shape", ", row 3: ['r3', 'b1', '5']: 3 fields, not 4"),
    (GOOD + "r3,b1,5,1700000000,extra\n", {}, "row_shape", ", row 3"),
    (GOOD + '"r3,b1,5,1700000000\n', {}, "quotes", ", row 3"),
    (GOOD.replace("\n", "\r"), {}, "line_ends", ""),
    ("\ufeff" + GOOD, {}, "byte_order_mark", ""),
    (GOOD + "\n\n", {}, "blank_row", ", row 3"),
    (GOOD + "r3,b1,5,1700000000\n\xe9\n", {}, "encoding", ", row 4: not utf-8: b'"),
    ((GOOD + "ré,b1,5,1700000000\n").encode(), {"encoding": "cp1252"}, "encoding", ": not cp1252, it reads as utf-8"),
    (GOOD.encode("utf-16"), {}, "encoding", ": not utf-8, it looks like utf-16"),
]  # fmt: skip


def findings(folder: Path, rule: str, **changed: Any) -> str:
    """The one line about a rule."""
    report = shop.source(folder, **changed).check(shop.SCHEMA)
    lines = report.errors if RULES[rule].severity == "error" else report.warnings
    (line,) = [line for line in lines if line.startswith(f"{rule}: ")]
    return line


@pytest.mark.parametrize(("content", "settings", "rule", "place"), INTERACTIONS)
def test_every_rule_of_interactions_names_its_place(
    tmp_path: Path, content: str | bytes, settings: dict[str, Any], rule: str, place: str
) -> None:
    shop.write(tmp_path)
    encoded = content if isinstance(content, bytes) else content.encode("latin-1" if "\xe9\n" in content else "utf-8")
    (tmp_path / "ratings.csv").write_bytes(encoded)
    line = findings(tmp_path, rule, interactions=settings)
    assert RULES[rule].demands in line
    if rule != "no_rows":
        assert f"{tmp_path / 'ratings.csv'}{place}" in line
    else:
        assert place in line
    if RULES[rule].severity == "error" and not rule.startswith(("value_range", "no_rows")):
        with pytest.raises(DataError, match=f"the data cannot be used: .*{rule}: "):
            shop.source(tmp_path, interactions=settings).interactions()


BOOKS_HEADER = "book,title,published,subjects\n"
BOOKS = BOOKS_HEADER + "b1,One,1999,History\nb2,Two,2001,Travel|Mystery\n"

ITEMS = [
    (BOOKS + "b3,Three,MCMXC,History\n", "number", "books.csv, row 3, column 'published': 'MCMXC'"),
    (BOOKS + "b3,Three,1999.5,History\n", "number", "row 3"),
    (BOOKS + "b1,Other,1999,History\n", "id_repeated", "row 1, column 'book': 'b1' | "),
    (BOOKS + "b1,One,1999,History\n", "row_repeated", "row 3, column 'book': 'b1'"),
    (BOOKS + "b3,Th\x07ree,1999,History\n", "control_characters", "row 3, column 'title': 'Th\\x07ree'"),
    (BOOKS + ",Three,1999,History\n", "id_empty", "row 3, column 'book'"),
    (BOOKS + "b3,,,History\n", "item_nameless", "'b3'"),
    (
        BOOKS + "b3,Three,1999,Polka\nb4,Four,1999,Polka\n",
        "field_unknown",
        "items, column 'subjects': 'Polka': 2 times",
    ),
    (BOOKS.replace("History", "").replace("Travel|Mystery", "Polka"), "field_empty", "items, column 'subjects'"),
    (BOOKS_HEADER, "no_rows", "items"),
    (BOOKS.replace("title", "name"), "missing_column", "column 'title': columns are 'book', 'name'"),
]


@pytest.mark.parametrize(("content", "rule", "place"), ITEMS)
def test_every_rule_of_items_names_its_place(tmp_path: Path, content: str, rule: str, place: str) -> None:
    shop.write(tmp_path)
    (tmp_path / "books.csv").write_text(content)
    assert place in findings(tmp_path, rule, texts={"item": "{title}"})


@pytest.mark.parametrize(("repeated", "title"), [("first", "One"), ("last", "Other")])
def test_of_several_descriptions_the_chosen_one_counts(tmp_path: Path, repeated: str, title: str) -> None:
    shop.write(tmp_path)
    (tmp_path / "books.csv").write_text(BOOKS + "b1,Other,2005,History\nb3,Three,1999,History\n")
    (tmp_path / "readers.csv").write_text("reader,country,birth_year\nr1,DE,1970\nr1,BR,\nr2,BR,1985\nr3,DE,1980\n")
    assert 'set repeated = "first" or "last"' in findings(tmp_path, "id_repeated")
    source = shop.source(tmp_path, items={"repeated": repeated}, users={"repeated": repeated})
    report, catalogue = source.check(shop.SCHEMA), source.catalogue()
    assert report.errors == []
    assert [line for line in report.warnings if "repeated" in line] == []
    assert f"items: 1 row more than ids: of those of an id the {repeated} counts" in report.facts
    assert (list(catalogue.items), catalogue.items["b1"]["title"]) == (["b1", "b2", "b3"], title)
    assert catalogue.users["r1"]["country"] == ("DE" if repeated == "first" else "BR")


def test_all_rules_are_checked_before_giving_up(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(GOOD + "r3,b1,five,soon\n,b1,9,1700000000\nghost,b1,9,1700000000\n")
    (tmp_path / "books.csv").write_text(BOOKS + "b1,Other,1999,Polka\n")
    (tmp_path / "readers.csv").write_text("reader,country\nr1,DE\n")
    report = shop.source(tmp_path).check(shop.SCHEMA)
    assert {line.split(":")[0] for line in report.errors} == {
        "value_number", "time_value", "id_empty", "value_range", "id_repeated", "missing_column",
    }  # fmt: skip
    assert {line.split(":")[0] for line in report.warnings} >= {"user_undescribed"}
    assert report.facts


@pytest.mark.parametrize("damage", ["encoding", "row", "column", "absent"])
def test_what_follows_from_another_finding_is_not_told(tmp_path: Path, damage: str) -> None:
    shop.write(tmp_path)
    (tmp_path / "readers.csv").write_text("reader,country,birth_year\nr1,DE,1970\nr2,BR,1985\nr3,DE,1990\n")
    contents = {
        "encoding": BOOKS.encode("utf-16"),
        "row": f"{BOOKS}b3\n".encode(),
        "column": BOOKS.replace("book", "id").encode(),
    }
    if damage == "absent":
        (tmp_path / "books.csv").unlink()
    else:
        (tmp_path / "books.csv").write_bytes(contents[damage])
    report = shop.source(tmp_path).check(shop.SCHEMA)
    assert len(report.errors) == 1
    assert report.warnings == []


def test_a_missing_column_of_items_is_the_only_finding(tmp_path: Path) -> None:
    shop.write(tmp_path)
    books = shop.tables()["books"]
    (tmp_path / "readers.csv").write_text("reader,country,birth_year\nr1,DE,1970\nr2,BR,1985\nr3,DE,1990\n")
    for column in ("title", "subjects"):
        books.drop(column).write_csv(tmp_path / "books.csv")
        report = shop.source(tmp_path).check(shop.SCHEMA)
        assert [line.split(":")[0] for line in (*report.errors, *report.warnings)] == ["missing_column"]


def test_the_first_five_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(GOOD + "r3,b1,five,1700000000\n" * 12)
    line = findings(tmp_path, "value_number")
    assert line.startswith("value_number: 12 break the rule that a value is")
    assert line.endswith(" | and 7 more")
    assert [row for row in range(1, 20) if f"row {row}," in line] == [3, 4, 5, 6, 7]


def test_rows_are_counted_with_their_line_breaks_and_blanks(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "books.csv").write_text(BOOKS + '\nb3,"Two\nlines",1999,History\nb4,Four,never,History\n')
    assert "row 5, column 'published': 'never'" in findings(tmp_path, "number")


@pytest.mark.parametrize("damage", ["cut", "no gzip", "no parquet", "unknown kind"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    shop.write(tmp_path)
    suffix = {"no parquet": "parquet", "unknown kind": "xlsx"}.get(damage, "csv.gz")
    path = tmp_path / f"events.{suffix}"
    path.write_bytes(gzip.compress(GOOD.encode() * 100)[:60] if damage == "cut" else b"PAR1 nothing")
    line = findings(tmp_path, "file_damaged", interactions={"paths": str(path)})
    assert str(path) in line


def test_files_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    source = shop.source(tmp_path, interactions={"paths": [str(tmp_path / "x.csv"), str(tmp_path / "part-*.csv")]})
    with pytest.raises(DataError, match=r"file_absent: 4 .*x\.csv \| .*part-\*\.csv \| .*readers\.csv \| .*books\.csv"):
        source.fetch()


def test_compressed_split_and_oddly_separated_files_are_read(tmp_path: Path) -> None:
    shop.write(tmp_path)
    expected = sorted(shop.source(tmp_path).interactions())
    rows = [f"{user}::{book}::{stars}::{at}\n" for user, book, stars, at in shop.RATINGS]
    with gzip.open(tmp_path / "part-1.dat.gz", "wt") as file:
        file.writelines(rows[:2])
    (tmp_path / "part-2.dat").write_text("".join(rows[2:]))
    source = shop.source(
        tmp_path,
        interactions={
            "paths": str(tmp_path / "part-*"), "separator": "::", "quote": "",
            "header": ["reader", "book", "stars", "at"],
        },
    )  # fmt: skip
    assert sorted(source.interactions()) == expected
    assert source.check(shop.SCHEMA).errors == []


def test_other_encodings_are_read(tmp_path: Path) -> None:
    shop.write(tmp_path)
    utf8 = (tmp_path / "books.csv").read_text()
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        (tmp_path / "books.csv").write_bytes(utf8.encode(encoding))
        assert shop.source(tmp_path, items={"encoding": encoding}).catalogue().items["b3"]["title"] == "Étoile"


def test_windows_line_ends_quotes_and_nulls(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "books.csv").write_bytes(b'book,title,published,subjects\r\nb1,"A ""loud"", day",NA,\r\n')
    items = shop.source(tmp_path, items={"nulls": ["", "NA"]}).catalogue().items
    assert items == {"b1": {"title": 'A "loud", day', "year": None, "subjects": []}}


@pytest.mark.parametrize(
    ("unit", "texts", "expected"),
    [
        ("s", ["0", "1700000000", "1700000000.25", " 17e8 "], [0, 1700000000000, 1700000000250, 1700000000000]),
        ("ms", ["0", "5", "1700000000123", "1700000000123.0"], [0, 5, 1700000000123, 1700000000123]),
        (
            "iso",
            ["2023-11-14T22:13:20Z", "2023-11-14 22:13:20", "2023-11-15T00:13:20.5+02:00", "2023-11-14"],
            [1700000000000, 1700000000000, 1700000000500, 1699920000000],
        ),
    ],
)
def test_times(tmp_path: Path, unit: str, texts: list[str], expected: list[int]) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(HEADER + "".join(f"r1,b1,5,{text}\n" for text in texts))
    assert [row[3] for row in shop.source(tmp_path, interactions={"time_unit": unit}).interactions()] == expected


@pytest.mark.parametrize("text", ["2024-04-07 20.11", "2024-04-07 20:11.5", "20240407T2011.5", "2024-04-07+02:00"])
def test_what_iso_would_read_otherwise_than_meant_is_refused(tmp_path: Path, text: str) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(HEADER + f"r1,b1,5,{text}\n")
    assert repr(text) in findings(tmp_path, "time_value", interactions={"time_unit": "iso"})
    form = {"time_unit": None, "time_format": "%Y-%m-%d %H.%M"}
    if text == "2024-04-07 20.11":
        assert [row[3] for row in shop.source(tmp_path, interactions=form).interactions()] == [1712520660000]


def test_times_of_parquet_are_taken_as_they_are(tmp_path: Path) -> None:
    moments = pl.from_epoch(shop.tables()["ratings"]["at"], time_unit="s")
    for frame in (moments.cast(pl.Datetime("ns")), moments.dt.replace_time_zone("Asia/Tokyo"), moments.dt.date()):
        shop.write(tmp_path, ".parquet", ratings=shop.tables()["ratings"].with_columns(at=frame))
        times = [row[3] for row in shop.source(tmp_path, ".parquet", interactions={"time_unit": "iso"}).interactions()]
        assert times[0] in (1700000000000, 1700000000000 - 9 * 3600_000, 1699920000000)
        with pytest.raises(DataError, match=r'time_unit: .*a time by itself: time_unit = "iso"'):
            shop.source(tmp_path, ".parquet").interactions()


def test_ids_are_text_or_whole_numbers(tmp_path: Path) -> None:
    ratings = shop.tables()["ratings"].with_columns(reader=pl.Series([1, 2, 1, 3, 2]))
    readers = shop.tables()["readers"].with_columns(reader=pl.Series(["1", "2", "3"], dtype=pl.Categorical))
    shop.write(tmp_path, ".parquet", ratings=ratings, readers=readers)
    assert "user_undescribed" not in str(shop.source(tmp_path, ".parquet").check(shop.SCHEMA))
    shop.write(tmp_path, ".parquet", ratings=ratings.with_columns(pl.col("reader").cast(pl.Float64)))
    with pytest.raises(DataError, match=r"id_type: .*column 'reader': it is Float64"):
        shop.source(tmp_path, ".parquet").interactions()


def test_parquet_columns_keep_their_types_unless_told_otherwise(tmp_path: Path) -> None:
    books = pl.DataFrame(
        {
            "book": ["b1", "b2", "b3"],
            "title": ["One", None, "Three"],
            "year": [1999, None, 2001],
            "price": [1.5, float("nan"), None],
            "subjects": [["History", None, ""], [], None],
            "sold": [True, False, None],
        }
    )
    shop.write(tmp_path, ".parquet", books=books)
    items = shop.source(tmp_path, ".parquet", items={"columns": {}}).catalogue().items
    assert items["b1"] == {"title": "One", "year": 1999, "price": 1.5, "subjects": ["History"], "sold": "true"}
    assert items["b2"] == {"title": None, "year": None, "price": None, "subjects": [], "sold": "false"}
    shop.write(tmp_path, ".parquet", books=books.with_columns(blob=pl.lit(b"x")))
    with pytest.raises(DataError, match=r"feature_type: .*column 'blob': it is Binary"):
        shop.source(tmp_path, ".parquet", items={"columns": {}}).catalogue()


ODD = [
    pl.Series([["a"], ["b"]]), pl.Series([{"a": 1}, {"a": 2}]), pl.Series([b"a", b"b"]), pl.Series([True, None]),
    pl.Series([1, 2], dtype=pl.Duration("ms")), pl.Series([1, 2], dtype=pl.Time), pl.Series([1, 2], dtype=pl.Date),
    pl.Series([1, 2], dtype=pl.Datetime("us")), pl.Series([None, None]), pl.Series(["1.5", "2"]).cast(pl.Decimal(9, 2)),
    pl.Series(["1", None], dtype=pl.Categorical), pl.Series([1, 2], dtype=pl.Int8),
    pl.Series([2**64 - 1, 2], dtype=pl.UInt64),
    pl.Series([1.5, float("nan")], dtype=pl.Float32), pl.Series([float("inf"), 1e300]), pl.Series([[[1]], [[2]]]),
]  # fmt: skip


@pytest.mark.parametrize("column", ODD, ids=[str(column.dtype) for column in ODD])
@pytest.mark.parametrize("unit", ["s", "ms", "iso"])
def test_parquet_columns_of_any_type_are_read_or_refused(tmp_path: Path, column: pl.Series, unit: str) -> None:
    """Every role gets the column in turn: nothing but rows or findings comes of it."""
    for table, role in (
        ("ratings", "reader"), ("ratings", "book"), ("ratings", "stars"), ("ratings", "at"), ("ratings", "event"),
        ("readers", "birth_year"), ("books", "published"), ("books", "subjects"), ("books", "book"),
    ):  # fmt: skip
        frames = {name: frame.head(2) for name, frame in shop.tables().items()}
        shop.write(tmp_path, ".parquet", **{**frames, table: frames[table].with_columns(column.alias(role))})
        admitted = {"keep": {"event": "true"}} if role == "event" else {}
        source = shop.source(tmp_path, ".parquet", interactions={"time_unit": unit, **admitted})
        report = source.check(shop.SCHEMA)
        assert report.errors or len(list(source.interactions())) == (1 if role == "event" else 2)


@given(st.text(alphabet='ab1.-,"\n\r\t\x00\x1fé', max_size=60) | st.binary(max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_file_is_read_or_refused(tmp_path: Path, content: str | bytes) -> None:
    shop.write(tmp_path)
    encoded = content if isinstance(content, bytes) else (HEADER + content).encode()
    (tmp_path / "ratings.csv").write_bytes(encoded)
    report = shop.source(tmp_path).check(shop.SCHEMA)
    assert all("\n" not in line for line in (*report.errors, *report.warnings))


@FEW
@given(data=st.data())
def test_a_parquet_file_that_is_cut_or_goes_on_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """With any byte changed it is not tried here: polars may then ask for all memory, and end the process."""
    shop.write(tmp_path, ".parquet")
    path = tmp_path / "ratings.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))] + data.draw(st.binary(max_size=6)))
    report = shop.source(tmp_path, ".parquet").check(shop.SCHEMA)
    assert all("\n" not in line for line in (*report.errors, *report.warnings))


def test_users_whose_features_no_record_can_hold_are_refused(tmp_path: Path) -> None:
    shop.write(tmp_path)
    source = shop.source(tmp_path, users={"columns": {"country": "list"}})
    with pytest.raises(DataError, match=r"profile: .*readers\.csv, row 1, column 'country'"):
        source.catalogue()


def test_only_rows_to_keep_are_taken_and_keep_their_numbers(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(
        "reader,book,at,event\nr1,b1,1700000000,view\nr2,b2,1700000000,buy\nr3,b3,never,view\nr3,b3,soon,buy\n"
    )
    changed: dict[str, Any] = {
        "interactions": {"value": None, "keep": {"event": ["buy"]}},
        "labels": {"kind": "implicit"},
    }
    assert "1 breaks" in findings(tmp_path, "time_value", **changed)
    assert "row 4, column 'at': 'soon'" in findings(tmp_path, "time_value", **changed)
    (tmp_path / "ratings.csv").write_text("reader,book,at,event\nr1,b1,1700000000,view\nr2,b2,1700000000,buy\n")
    assert list(shop.source(tmp_path, **changed).interactions()) == [("r2", "b2", 1.0, 1700000000000)]


@pytest.mark.parametrize("word", ["1", "0", "true", "FALSE", "1.0"])
def test_binary_labels(tmp_path: Path, word: str) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(HEADER + f"r1,b1,{word},1700000000\n")
    (row,) = shop.source(tmp_path, labels={"kind": "binary"}).interactions()
    assert row[2] == float(word.lower() in ("1", "true", "1.0"))
    (tmp_path / "ratings.csv").write_text(HEADER + "r1,b1,2,1700000000\n")
    with pytest.raises(DataError, match=r"value_binary: .*row 1, column 'stars': '2'"):
        shop.source(tmp_path, labels={"kind": "binary"}).interactions()


def test_interactions_of_nobody_are_left_out_and_who_that_is_can_be_said(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "ratings.csv").write_text(GOOD + "null,b1,5,1700000000\n0,b1,4,1700000001\nr1,undefined,5,1700000002\n")

    def owners(**changed: Any) -> list[tuple[str, str]]:
        return [row[:2] for row in shop.source(tmp_path, **changed).interactions()]

    good = [("r1", "b1"), ("r2", "b2")]
    assert owners() == [*good, ("0", "b1")]
    assert owners(nobody=["0", "undefined"]) == [*good, ("null", "b1")]
    assert len(owners(nobody=[])) == 5
