"""The item table as files: filled from what is valid, refused when damaged, and brought up to date item by item."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from models.contract.artifact import ArtifactError
from models.contract.bulk import ItemDecoder
from models.contract.events import item_hash
from models.contract.items import Columns, ItemTable, item_statistics
from models.contract.knowledge import Space
from models.contract.snapshot import (
    TableUpdate,
    capacity,
    change,
    changed_items,
    file_of,
    filled_columns,
    model_columns,
    read_columns,
    write_columns,
)
from tests.contract.item_record import ItemRecord
from tests.service.tiny import knowledge
from tests.service.tiny_model import FACTS_SPACE, ITEM_SPACE, SCHEMA, USER_SPACE, artifact_manifest, bare_manifest

Records = dict[str, tuple[bytes | None, bytes | None, bytes | None]]
"""Packed records by item: features, knowledge in "liber", knowledge in "facts"."""


def features(owner: str, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "owner": owner,
        "schema": SCHEMA.fingerprint,
        "index": 1,
        "categorical": (1, 0),
        "numeric": (0.1, 0.2, 0.3),
        "written_at": 0,
    }
    return ItemRecord(**(fields | changes)).pack()  # type: ignore[arg-type]


def records(*owners: str, **changes: object) -> Records:
    return {
        owner: (
            features(owner, **changes),
            knowledge(owner, ITEM_SPACE, [[1.0, 2.0, 3.0]], 7),
            knowledge(owner, FACTS_SPACE, [[4.0, 5.0]], 8),
        )
        for owner in owners
    }


def filled(decoder: ItemDecoder, stored: Records, chunk: int = 100) -> tuple[Columns, int]:
    ids = list(stored)
    parts = [ids[at : at + chunk] for at in range(0, len(ids), chunk)]
    decoded = (decoder.decode(part, [*zip(*(stored[item] for item in part), strict=True)]) for part in parts)
    return filled_columns(decoder, ids, decoded)


def written(update: TableUpdate, decoder: ItemDecoder, stored: Records) -> None:
    ids = list(stored)
    update.write(decoder.decode(ids, [*zip(*(stored[item] for item in ids), strict=True)]))


def test_a_whole_catalogue_comes_back_from_files(tmp_path: Path) -> None:
    stored: Records = {
        f"i{at}": (
            features(f"i{at}", index=at),
            knowledge(f"i{at}", ITEM_SPACE, [[at, 0, 0]], 1000 + at) if at % 3 else None,
            knowledge(f"i{at}", FACTS_SPACE, [[0, -at]], 1000 + at) if at % 2 else None,
        )
        for at in range(50)
    }
    columns, items = filled(ItemDecoder(artifact_manifest()), stored, chunk=7)
    digests = write_columns(tmp_path, columns | {"rows/column": np.arange(60)})
    read = read_columns(tmp_path, digests)
    table = ItemTable.of(read, items)
    assert list(table.ids) == ["", *stored]
    assert table.rows_of(["i7", "none"]).tolist() == [8, 0]
    assert table.rows_of_hashes(np.array([item_hash("i7")], np.uint64)).tolist() == [8]
    assert table.index[1:].tolist() == list(range(50))
    assert table.vectors[1:, 0].tolist() == [at if at % 3 else 0 for at in range(50)]
    assert table.vectors[1:, 4].tolist() == [-at if at % 2 else 0 for at in range(50)]
    assert not table.vectors[:, 1:4].any()
    assert table.expires_at.tolist() == [
        [0, 0], *([1000 + at if at % 3 else 0, 1000 + at if at % 2 else 0] for at in range(50))
    ]  # fmt: skip
    assert {name: column.tolist() for name, column in model_columns(read).items()} == {"rows/column": [*range(60)]}
    assert capacity(tmp_path, digests) == 50 + 64


@pytest.mark.parametrize(
    "poison",
    [
        features("other"),
        features("a", schema="0" * 16),
        features("a", index=10_000),
        features("a", categorical=(4, 0)),
        features("a", categorical=(-1, 0)),
        features("a", numeric=(float("nan"), 0.0, 0.0)),
        features("a")[:-1],
        b"",
    ],
)
def test_refused_features_leave_the_knowledge(poison: bytes) -> None:
    stored = records("a", "b")
    stored["a"] = (poison, *stored["a"][1:])
    decoder = ItemDecoder(artifact_manifest())
    table = ItemTable.of(*filled(decoder, stored))
    assert list(table.ids) == ["", "a", "b"]
    assert table.index[1] == 0
    assert table.categorical[1].tolist() == [0, 0]
    assert np.allclose(table.numeric[1], item_statistics(SCHEMA, 0, 0, 0))
    assert table.vectors[1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert decoder.refused == {"item_features": 1, "item_knowledge": 0}


@pytest.mark.parametrize(
    ("space", "poison"),
    [
        (ITEM_SPACE, knowledge("other", ITEM_SPACE, [[1.0, 1.0, 1.0]])),
        (ITEM_SPACE, knowledge("a", USER_SPACE, [[1.0, 1.0, 1.0]])),
        (ITEM_SPACE, knowledge("a", ITEM_SPACE, [[1.0, 1.0]])),
        (ITEM_SPACE, knowledge("a", ITEM_SPACE, [[1.0, 1.0, 1.0]] * 2)),
        (ITEM_SPACE, b"damaged"),
        (FACTS_SPACE, knowledge("a", ITEM_SPACE, [[1.0, 1.0, 1.0]])),
        (FACTS_SPACE, knowledge("a", FACTS_SPACE, [[1.0, 1.0, 1.0]])),
        (FACTS_SPACE, knowledge("a", FACTS_SPACE, [[1.0, 1.0]])[:-1]),
    ],
    ids=["owner", "user-space", "narrow", "two-rows", "damaged", "item-space", "wide", "torn"],
)
def test_refused_knowledge_leaves_the_features_and_the_other_space(space: Space, poison: bytes) -> None:
    whole = records("a")["a"]
    decoder = ItemDecoder(artifact_manifest())
    stored = {"a": (whole[0], *((poison, whole[2]) if space is ITEM_SPACE else (whole[1], poison)))}
    table = ItemTable.of(*filled(decoder, stored))
    assert table.index[1] == 1
    assert table.expires_at[1].tolist() == ([0, 8] if space is ITEM_SPACE else [7, 0])
    assert table.vectors[1].tolist() == ([0, 0, 0, 4, 5] if space is ITEM_SPACE else [1, 2, 3, 0, 0])
    assert decoder.refused == {"item_features": 0, "item_knowledge": 1}


def test_items_of_which_nothing_is_valid_are_left_out() -> None:
    facts = knowledge("d", FACTS_SPACE, [[6.0, 7.0]], 8)
    stored: Records = {"a": (None, None, None), "b": (features("b"), None, None), "d": (None, None, facts)}
    table = ItemTable.of(*filled(ItemDecoder(artifact_manifest()), stored, chunk=1))
    assert list(table.ids) == ["", "b", "d"]
    assert table.index.tolist() == [0, 1, 0]
    assert table.vectors[2].tolist() == [0, 0, 0, 6, 7]


def test_a_catalogue_without_knowledge(tmp_path: Path) -> None:
    manifest = bare_manifest()
    decoder = ItemDecoder(manifest)
    stored = {"a": (features("a", schema=manifest.feature_schema.fingerprint),)}
    columns, items = filled(decoder, stored)  # type: ignore[arg-type]  # no spaces, no knowledge
    table = ItemTable.of(read_columns(tmp_path, write_columns(tmp_path, columns)), items)
    assert table.vectors.shape == table.expires_at.shape == (2, 0)
    assert table.rows_of(["a"]).tolist() == [1]


@pytest.fixture
def digests(tmp_path: Path) -> dict[str, str]:
    columns, _ = filled(ItemDecoder(artifact_manifest()), records("a", "b"))
    return write_columns(tmp_path, columns)


def test_columns_that_two_snapshots_share_lie_there_once(tmp_path: Path, digests: dict[str, str]) -> None:
    files = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    other, _ = filled(ItemDecoder(artifact_manifest()), records("a", "b", index=2))
    changed = {name for name, digest in write_columns(tmp_path, other).items() if digests[name] != digest}
    assert changed == {"index"}
    after = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert {name: after[name] for name in files} == files
    assert len(after) == len(files) + 1, "and no partial files"


@pytest.mark.parametrize("damage", ["missing", "empty", "header alone", "truncated", "longer", "one bit", "no array"])
@pytest.mark.parametrize("column", ["vectors", "id_hashes"])
def test_a_damaged_file_is_refused_and_written_again(
    tmp_path: Path, digests: dict[str, str], column: str, damage: str
) -> None:
    path = tmp_path / file_of(digests[column])
    content = path.read_bytes()
    damaged = {
        "empty": b"", "header alone": content[:128], "truncated": content[:-1], "no array": b"x" * len(content),
        "one bit": content[:-1] + bytes([content[-1] ^ 1]), "longer": content,
    }  # fmt: skip
    path.unlink()
    if damage != "missing":
        path.write_bytes(damaged[damage])
    if damage != "longer":
        with pytest.raises(ArtifactError, match=f"item column '{column}'"):
            read_columns(tmp_path, digests)
        assert capacity(tmp_path, digests) is None
    again = write_columns(tmp_path, filled(ItemDecoder(artifact_manifest()), records("a", "b"))[0])
    assert again == digests
    assert path.read_bytes() == content


def test_what_is_written_into_a_mapping_stays_with_it(tmp_path: Path, digests: dict[str, str]) -> None:
    columns = read_columns(tmp_path, digests)
    columns["vectors"][:] = 17
    assert ItemTable.of(read_columns(tmp_path, digests), 2).vectors[1].tolist() == [1, 2, 3, 4, 5]
    shutil.rmtree(tmp_path)
    assert columns["vectors"][1].tolist() == [17] * 5, "a mapping outlives its file"


def test_changed_and_new_items_are_written_into_a_table(tmp_path: Path, digests: dict[str, str]) -> None:
    decoder = ItemDecoder(artifact_manifest())
    update = TableUpdate(read_columns(tmp_path, digests), 2)
    before = update.table()
    knowledge_alone = (None, *records("x")["x"][1:])
    written(update, decoder, {**records("b", "new", index=5), "x": knowledge_alone})
    table = update.table()
    assert (list(before.ids), list(table.ids)) == (["", "a", "b"], ["", "a", "b", "new"])
    assert table.rows_of(["new", "x", "a"]).tolist() == [3, 0, 1]
    assert table.rows_of_hashes(np.array([item_hash("new")], np.uint64)).tolist() == [3]
    assert table.index.tolist() == [0, 1, 5, 5]
    assert table.vectors[3].tolist() == [1, 2, 3, 4, 5]
    assert update.rows.tolist() == [2, 3]
    following = TableUpdate(read_columns(tmp_path, digests), 2)
    following.take_over(update)
    written(following, decoder, records("a", index=9))
    assert list(following.table().ids) == list(table.ids)
    assert following.table().rows_of(["new"]).tolist() == [3]
    assert following.table().index.tolist() == [0, 9, 5, 5]
    assert following.rows.tolist() == [1, 2, 3]
    assert update.table().index.tolist() == [0, 1, 5, 5], "the table before is as it was"


def test_an_item_of_which_nothing_is_left_is_like_the_unknown_one(tmp_path: Path, digests: dict[str, str]) -> None:
    update = TableUpdate(read_columns(tmp_path, digests), 2)
    written(update, ItemDecoder(artifact_manifest()), {"a": (None, None, None)})
    table = update.table()
    for column in (table.index, table.categorical, table.numeric, table.vectors, table.expires_at):
        assert column[1].tolist() == column[0].tolist()


def test_more_new_items_than_spare_rows_need_a_new_snapshot(tmp_path: Path, digests: dict[str, str]) -> None:
    update = TableUpdate(read_columns(tmp_path, digests), 2)
    written(update, ItemDecoder(artifact_manifest()), records(*(f"n{at}" for at in range(64))))
    assert len(update.table()) == 67
    with pytest.raises(ArtifactError, match="no room for 1 more items: publish again"):
        written(update, ItemDecoder(artifact_manifest()), records("one more"))


def entry(at: str, of: str, ids: tuple[str, ...] | None = (), **changes: str) -> tuple[bytes, dict[bytes, bytes]]:
    fields = change(of, ids) | changes
    return at.encode(), {name.encode(): value.encode() for name, value in fields.items()}


def test_the_stream_entry_is_this() -> None:
    assert change("r1", ["a", "ö"]) == {"v": "1", "of": "r1", "items": '["a", "\\u00f6"]'}
    assert change("r1", ()) == {"v": "1", "of": "r1", "items": "[]"}
    assert change("r1", None) == {"v": "1", "of": "r1", "items": "*"}


def test_changes_since_a_mark() -> None:
    entries = [
        entry("1-0", "r1"),
        entry("2-0", "space", ("b", "a")),
        entry("3-0", "r2", ("c",)),
        entry("4-0", "r1", ("a", "d")),
    ]
    assert changed_items(entries, "1-0", {"r1", "space"}) == ["b", "a", "d"]
    assert changed_items(entries[:1], "1-0", {"r1"}) == []
    assert changed_items(entries[1:], "1-0", {"r1"}) is None, "the mark was trimmed"
    assert changed_items([], "1-0", {"r1"}) is None
    assert changed_items([*entries, entry("5-0", "r1", None)], "1-0", {"r1"}) is None
    assert changed_items([*entries, entry("5-0", "r2", None)], "1-0", {"r1"}) == ["a", "d"]
    assert changed_items([*entries, entry("5-0", "r2", v="2")], "1-0", {"r1"}) is None, "of another version"
    for fields in ({b"v": b"1"}, {b"v": b"1", b"of": b"r1"}, {b"v": b"1", b"of": b"r1", b"items": b"[[]]"}):
        assert changed_items([*entries, (b"5-0", fields)], "1-0", {"r1"}) is None, "damaged"
