"""Item records and the item table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract import items, lookup
from models.contract.events import item_hash
from models.contract.items import ItemTable, Recent, append_ids, blank_columns, item_statistics, lookup_columns
from models.contract.knowledge import RecordError
from models.contract.schema import FeatureSchema, RunningSpec
from tests.contract.golden import ITEM, OTHER_SCHEMA, SCHEMA, flips, resealed, truncations
from tests.contract.item_record import ItemRecord

GOLDEN = bytes.fromhex(
    "4c49" "01" "00" "2a000000" "00f1536500000000" "7f82efc59afe30ba"  # magic, version, index, written at, schema
    "01000000" "02000000" "00000000" "0000003f" "000080be" "0000803f"  # categorical, numeric
    "66696c6d2031" "8d40f632"  # owner "film 1", crc32
)  # fmt: skip


def test_packs_to_golden_bytes() -> None:
    assert ITEM.pack().hex() == GOLDEN.hex()


def test_unpacks_golden_bytes() -> None:
    assert ItemRecord.unpack(GOLDEN, "film 1", SCHEMA) == ITEM


def test_refuses_every_truncation_and_every_changed_byte() -> None:
    for damaged in (*truncations(GOLDEN), *flips(GOLDEN), GOLDEN + b"\0"):
        with pytest.raises(RecordError):
            ItemRecord.unpack(damaged, "film 1", SCHEMA)


@pytest.mark.parametrize(("at", "byte"), [(0, 0), (1, 0), (2, 0), (2, 2)])
def test_refuses_another_kind_or_version_even_if_whole(at: int, byte: int) -> None:
    with pytest.raises(RecordError, match="unknown kind"):
        ItemRecord.unpack(resealed(GOLDEN, at, byte), "film 1", SCHEMA)


@pytest.mark.parametrize("owner", ["film 2", "film 1 ", "film", ""])
def test_refuses_another_owner(owner: str) -> None:
    with pytest.raises(RecordError, match="another owner"):
        ItemRecord.unpack(GOLDEN, owner, SCHEMA)


def test_refuses_another_schema() -> None:
    with pytest.raises(RecordError, match=f"expected {OTHER_SCHEMA.fingerprint}"):
        ItemRecord.unpack(GOLDEN, "film 1", OTHER_SCHEMA)


@settings(max_examples=60, deadline=None)
@given(
    owner=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    index=st.integers(0, 2**32 - 1),
    categorical=st.tuples(*[st.integers(0, 2**31 - 1)] * SCHEMA.item_slots),
    numeric=st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 3),
    written_at=st.integers(0, 2**62),
)
def test_round_trip(
    owner: str, index: int, categorical: tuple[int, ...], numeric: tuple[float, ...], written_at: int
) -> None:
    record = ItemRecord(owner, SCHEMA.fingerprint, index, categorical, numeric, written_at)
    assert ItemRecord.unpack(record.pack(), owner, SCHEMA) == record


def table(*ids: str) -> ItemTable:
    """A table in which every number tells its item: item p has index 10 p, fields p, statistics p and vectors p."""
    places = np.arange(1, len(ids) + 1)
    return ItemTable.build(
        SCHEMA,
        ids,
        index=places * 10,
        categorical=np.repeat(places[:, None], SCHEMA.item_slots, axis=1),
        numeric=np.repeat(places[:, None], 3, axis=1),
        vectors=np.repeat(places[:, None], SCHEMA.item_width, axis=1).astype(np.float32),
        expires_at=places[:, None] * [100, 1000],
    )


def test_table_finds_items_by_id_and_by_hash() -> None:
    items = table("b", "a", "zoë", "{x}")
    assert list(items.ids) == ["", "b", "a", "zoë", "{x}"]
    ids = ["zoë", "missing", "b", "{x}", "a", "b"]
    assert items.rows_of(ids).tolist() == [3, 0, 1, 4, 2, 1]
    hashes = np.array([item_hash(item_id) for item_id in ids], np.uint64)
    assert items.rows_of_hashes(hashes).tolist() == [3, 0, 1, 4, 2, 1]
    assert items.rows_of([]).tolist() == items.rows_of_hashes(hashes[:0]).tolist() == []


def test_the_lookup_by_hash_keeps_the_shape_and_covers_both_ends() -> None:
    items = table(*(f"item-{number}" for number in range(100)))
    ends = np.array([[0, 2**64 - 1]], np.uint64)
    assert items.rows_of_hashes(ends).tolist() == [[0, 0]]
    hashes = np.array([item_hash(item_id) for item_id in items.ids[1:]], np.uint64)
    assert items.rows_of_hashes(hashes).tolist() == list(range(1, 101))


@pytest.mark.parametrize(
    "hashed",
    [hash, len, lambda item_id: hash(item_id) % 512, lambda item_id: 2**62 + len(item_id) % 2],
    ids=["as they are", "lengths", "512 values", "two values"],
)
def test_ids_that_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch, hashed: Callable[[str], int]) -> None:
    def hashes(ids: Sequence[str]) -> np.ndarray[Any, Any]:
        every = ((hash(item_id) if item_id[:1] == "?" else hashed(item_id)) % 2**64 for item_id in ids)
        return np.fromiter(every, np.uint64, len(ids))

    for module in (items, lookup):
        monkeypatch.setattr(module, "xxh3", hashes)
    catalogue = table(*(f"item {number}" for number in range(2000)))
    random = np.random.default_rng(0)
    places = random.integers(0, 2000, 700)
    asked = [f"item {at}" for at in places.tolist()]
    assert catalogue.rows_of([*asked, "?unknown"]).tolist() == [*(places + 1).tolist(), 0]


def test_the_index_is_the_same_in_every_process() -> None:
    """Processes share it, so its hashes must not be Python's."""
    columns = lookup_columns(["item 1"], 1)
    (slot,) = np.flatnonzero(columns["id_rows"])
    assert columns["id_hashes"][slot] == 0x9A7977C5C4A0AC99


def test_ids_that_come_later_are_found_like_the_others() -> None:
    columns = lookup_columns(["b", "zoë"], 5)
    columns |= blank_columns(SCHEMA, 5)
    append_ids(columns, ["a", "{x}"])
    grown = ItemTable.of(columns, 4)
    ids = ["zoë", "missing", "b", "{x}", "a"]
    assert list(grown.ids) == ["", "b", "zoë", "a", "{x}"]
    assert grown.rows_of(ids).tolist() == [2, 0, 1, 4, 3]
    assert grown.rows_of_hashes(np.array([item_hash(item) for item in ids], np.uint64)).tolist() == [2, 0, 1, 4, 3]


def test_row_zero_is_the_unknown_item() -> None:
    items = table("a")
    assert len(items) == 2
    assert items.rows_of([""]).tolist() == [0]
    assert items.index[0] == 0
    assert not items.expires_at[0].any()
    assert not items.categorical[0].any()
    assert not items.vectors[0].any()
    assert items.numeric[0].tolist() == item_statistics(SCHEMA, 0, 0, 0).tolist()


def test_table_rows_hold_what_was_given() -> None:
    items = table("a", "b")
    assert items.index.tolist() == [0, 10, 20]
    assert items.categorical[2].tolist() == [2, 2, 2]
    assert items.numeric[2].tolist() == [2.0, 2.0, 2.0]
    assert items.vectors[2].tolist() == [2.0, 2.0, 2.0, 2.0]
    assert items.expires_at.tolist() == [[0, 0], [100, 1000], [200, 2000]]
    assert [column.dtype.name for column in (items.index, items.numeric, items.vectors)] == [
        "int64",
        "float32",
        "float32",
    ]


def test_an_empty_table_knows_only_the_unknown_item() -> None:
    empty = table()
    assert len(empty) == 1
    assert empty.rows_of(["a"]).tolist() == [0]
    assert empty.rows_of_hashes(np.array([1, 2], np.uint64)).tolist() == [0, 0]
    assert empty.vectors.shape == (1, SCHEMA.item_width)
    assert empty.expires_at.shape == (1, 2)


def test_a_table_of_a_schema_without_knowledge_has_no_columns_for_it() -> None:
    schema = SCHEMA.with_knowledge(())
    nothing = np.zeros((2, 0), np.float32)
    items = ItemTable.build(schema, ("a", "b"), [1, 2], np.ones((2, 3)), np.ones((2, 3)), nothing, nothing)
    assert items.vectors.shape == items.expires_at.shape == (3, 0)
    assert items.rows_of(["b"]).tolist() == [2]


@pytest.mark.parametrize("ids", [("a", "a"), ("a", ""), ("",)])
def test_repeated_or_empty_ids_are_refused(ids: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="unique and not empty"):
        table(*ids)


def test_statistics_against_hand_computed_values() -> None:
    # 10 interactions of value 5, all liked: ten prior ones halve the mean and the rate.
    count, mean, liked = item_statistics(SCHEMA, 10, 50.0, 10).tolist()
    assert count == pytest.approx(np.log(11) / 5)
    assert mean == pytest.approx((50 - 30) / 20 / 2)
    assert liked == pytest.approx(2 * (10 + 5) / 20 - 1)


def test_an_item_without_history_has_the_prior() -> None:
    assert item_statistics(SCHEMA, 0, 0, 0).tolist() == [0.0, 0.0, 0.0]
    hopeful = FeatureSchema.model_validate({**SCHEMA.model_dump(), "prior_liked": 0.75})
    assert item_statistics(hopeful, 0, 0, 0).tolist() == [0.0, 0.0, 0.5]


def test_a_record_of_a_schema_with_other_slots_is_refused() -> None:
    with pytest.raises(RecordError):
        ItemRecord.unpack(replace(ITEM, categorical=(1, 2)).pack(), "film 1", SCHEMA)


def test_trends_do_not_say_how_busy_the_service_is() -> None:
    """An item whose share of what happened lately is its share of all has none, in a rush and in a lull."""
    schema = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=(1.0, 7.0))})
    count = np.asarray([10.0, 1000.0])
    for lately in (0.0, 50.0, 1e6):
        of_all = np.full((2, 2), lately)
        recent = Recent(of_all * count[:, None] / 1e4, of_all, np.full(2, 1e4))
        assert np.allclose(item_statistics(schema, count, 3 * count, count, recent)[:, 3:], 0.0)
    hot = Recent(np.asarray([[9.0, 9.0], [9.0, 9.0]]), np.full((2, 2), 90.0), np.full(2, 1e4))
    rare, frequent = item_statistics(schema, count, 3 * count, count, hot)[:, 3]
    assert rare > 0.6
    assert frequent == 0.0
