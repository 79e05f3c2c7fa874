"""Import of ready-made texts: formats, refusals with their places, and from when on a user's text holds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from offline.data.catalogue import DataError
from offline.data.texts_import import MAX_TEXT_CHARS, ImportedTexts, UserText, read_item_texts, read_user_texts

ITEMS = ["i1", "i2", "3"]
USERS = {"u1": 2, "u2": 0}
ROWS: list[dict[str, Any]] = [{"item": "i1", "text": "A story\nof hats."}, {"item": 3, "text": "Ü"}]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_every_format_says_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"texts{suffix}"
    frame = pl.DataFrame([{"item": str(row["item"]), "text": row["text"], "other": 1} for row in ROWS])
    if suffix == ".csv":
        frame.write_csv(path)
    elif suffix == ".parquet":
        frame.write_parquet(path)
    else:
        lines(tmp_path / "texts.jsonl", [ROWS[0], "\n", ROWS[1]])
        if suffix == ".jsonl.gz":
            path.write_bytes(gzip.compress((tmp_path / "texts.jsonl").read_bytes()))
    texts, report = read_item_texts(path, ITEMS)
    assert texts == {"i1": "A story of hats.", "3": "Ü"}
    assert (report.facts, report.warnings) == (["2 of 3 items have a text"], [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"item": "i9", "text": "x"}, "text_owner: .*row 2, column 'item': 'i9'"),
        ({"item": "i1", "text": "x"}, "text_repeated: .*row 2, column 'item': 'i1'"),
        ({"item": "i2", "text": " \n"}, r"text_empty: .*row 2, column 'text': ' \\n'"),
        ({"item": "i2", "text": None}, "text_empty: .*row 2, column 'text': ''"),
        ({"item": "i2"}, "text_empty: .*row 2"),
        ({"text": "x"}, "id_empty: .*row 2, column 'item'"),
        ({"item": "i2\0", "text": "x"}, r"id_control: .*row 2, column 'item': 'i2\\x00'"),
        ({"item": "i\ud800", "text": "x"}, "id_control: .*row 2"),
        ({"item": "é" * 129, "text": "x"}, "id_long: .*row 2"),
        ({"item": "i2", "text": "x" * (MAX_TEXT_CHARS + 1)}, "text_long: .*row 2, column 'text': 'xxx.*: 8001 char"),
        (["i2", "x"], "record: .*row 2: '"),
        ({"item": {"id": 1}, "text": "x"}, "record: .*row 2: '"),
        ("{\n", r"record: .*row 2: '{\\n'"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_place(tmp_path: Path, row: Any, reason: str) -> None:
    path = lines(tmp_path / "texts.jsonl", [ROWS[0], row])
    with pytest.raises(DataError, match=reason):
        read_item_texts(path, ITEMS)


def test_all_rules_are_checked(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", [{"item": "x", "text": ""}, "{\n", ROWS[0], ROWS[0]])
    with pytest.raises(DataError, match=r"text_empty: 1 .*text_owner: 1 .*text_repeated: 1 .*record: 1 "):
        read_item_texts(path, ITEMS)


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,description\ni1,x\n")
    with pytest.raises(DataError, match=r"missing_column: 2 .*column 'item': .*column 'text'"):
        read_item_texts(tmp_path / "t.csv", ITEMS)
    for name in ("nowhere.csv", "nowhere.jsonl"):
        with pytest.raises(DataError, match=f"file_absent: .*{name}"):
            read_item_texts(tmp_path / name, ITEMS)
    (tmp_path / "t.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"file_damaged: .*t\.jsonl\.gz"):
        read_item_texts(tmp_path / "t.jsonl.gz", ITEMS)


def test_user_texts_are_of_users_or_of_their_closed_partitions(tmp_path: Path) -> None:
    rows = [
        {"user": "u1", "text": "Likes hats."},
        {"user": "u1", "partition": 1, "text": "Liked coats."},
        {"user": "u2", "partition": None, "text": "Likes shoes."},
    ]
    texts, report = read_user_texts(lines(tmp_path / "t.jsonl", rows), USERS)
    assert texts == {("u1", None): "Likes hats.", ("u1", 1): "Liked coats.", ("u2", None): "Likes shoes."}
    assert report.facts == ["3 texts of 2 of 2 users"]
    (tmp_path / "t.csv").write_text("user,partition,text\nu1,,Likes hats.\nu1,1,Liked coats.\nu2,,Likes shoes.\n")
    assert read_user_texts(tmp_path / "t.csv", USERS)[0] == texts
    for row, reason in (
        ({"user": "u1", "partition": 2, "text": "x"}, "text_owner: .*'partition': 2: user u1 has 2 closed"),
        ({"user": "u2", "partition": 0, "text": "x"}, "text_owner: .*user u2 has 0 closed"),
        ({"user": "u1", "partition": "first", "text": "x"}, "text_owner: .*'partition': 'first'"),
        ({"user": "u9", "text": "x"}, "text_owner: .*'user': 'u9'"),
        ({"user": "u1", "text": "y"}, "text_repeated: .*'user': 'u1'"),
    ):
        with pytest.raises(DataError, match=reason):
            read_user_texts(lines(tmp_path / "t.jsonl", [*rows, row]), USERS)


def test_versions_hold_from_their_import_on(tmp_path: Path) -> None:
    path = tmp_path / "imported.json"
    first = (
        ImportedTexts.load(path)
        .with_items({"i1": "a"})
        .with_users({("u1", None): "x", ("u1", 0): "y"}, 100, "5 interactions")
    )
    first.save(path)
    loaded = ImportedTexts.load(path)
    assert loaded == first
    second = loaded.with_items({"i2": "b", "i1": "c"}).with_users(
        {("u1", None): "z", ("u1", 0): "y"}, 150, "5 interactions"
    )
    assert second.items == {"i1": "c", "i2": "b"}
    assert second.users == (
        UserText("u1", None, "x", 100),
        UserText("u1", 0, "y", 100, "5 interactions"),
        UserText("u1", None, "z", 150),
    )
    assert second.with_users({("u1", None): "z"}, 200, "7 days") == second


def test_texts_about_partitions_are_kept_by_what_closed_them() -> None:
    both = (
        ImportedTexts({}, ())
        .with_users({("u1", 0): "x", ("u2", 0): "x"}, 100, "5 interactions")
        .with_users({("u1", 0): "x", ("u1", None): "y"}, 150, "7 days")
    )
    assert [version.trigger for version in both.users] == ["5 interactions", "5 interactions", "7 days", None]
    assert both.left_out("5 interactions") == {}, "whoever has texts of today's partitions was imported again"
    assert both.left_out("7 days") == {"5 interactions": 1}
    assert both.left_out("9 days") == {"5 interactions": 2, "7 days": 1}
    assert both.with_users({("u1", 0): "x"}, 200, "5 interactions") == both


def test_the_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It did not note what closed a partition."""
    path = tmp_path / "imported.json"
    path.write_text('{"items": {"i1": "a"}, "users": [["u1", null, "x", 100], ["u1", 0, "y", 100]]}')
    loaded = ImportedTexts.load(path)
    assert loaded.items == {"i1": "a"}
    assert loaded.users == (UserText("u1", None, "x", 100), UserText("u1", 0, "y", 100))
    assert loaded.placed().users == (UserText("u1", None, "x", 100),)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "imported.json"
    for content in ("", "{}", '{"items": {}, "users": [[1]]}', "[]"):
        path.write_text(content)
        with pytest.raises(DataError, match=r"imported\.json cannot be read"):
            ImportedTexts.load(path)
