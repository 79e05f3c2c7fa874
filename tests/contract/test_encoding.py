"""The encoder: shapes, padding, cut histories, unknown items, and what is left without knowledge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.contract.encoding import (
    INPUTS,
    ITEM_INPUTS,
    USER_INPUTS,
    ItemBatch,
    Tensors,
    UserBatch,
    encode,
    user_statistics,
    without_knowledge,
)
from models.contract.events import EVENT_DTYPE, EventArray, Interaction
from models.contract.items import ItemTable
from tests.contract.golden import SCHEMA

T, J, D = SCHEMA.history_length, SCHEMA.partitions, SCHEMA.knowledge_dim

TABLE = ItemTable.build(
    SCHEMA,
    ids=("a", "b", "c"),
    index=[1, 2, 0],
    categorical=[[1, 2, 1], [2, 0, 2], [1, 0, 1]],
    numeric=[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]],
    vectors=np.arange(1, 10, dtype=np.float32).reshape(3, 3),
    expires_at=[0, 0, 0],
)


def history(*events: tuple[str, float]) -> EventArray:
    """A packed live history of (item, value) pairs, read back."""
    packed = b"".join(
        Interaction(user_id="u", item_id=item, value=value, time_ms=at).pack()
        for at, (item, value) in enumerate(events)
    )
    return np.frombuffer(packed, EVENT_DTYPE)


def user(*events: tuple[str, float], partitions: int = 0) -> UserBatch:
    vectors = np.arange(1, 1 + partitions * D, dtype=np.float32).reshape(partitions, D) if partitions else None
    return UserBatch.single(SCHEMA, TABLE, {"age": 20}, history(*events), vectors)


def tensors(one: UserBatch, *items: str, knowledge: bool = True) -> Tensors:
    return encode(SCHEMA, TABLE, one, ItemBatch.gather(TABLE, TABLE.rows_of(items)), knowledge=knowledge)


def test_names_shapes_and_types_of_all_inputs() -> None:
    made = tensors(user(("a", 5.0), partitions=1), "a", "b", "c", "nowhere")
    expected = {
        "user_categorical": ((1, 1), np.int64),
        "user_numeric": ((1, 4), np.float32),
        "history_index": ((1, T), np.int64),
        "history_categorical": ((1, T, 3), np.int64),
        "history_value": ((1, T), np.float32),
        "history_mask": ((1, T), np.float32),
        "history_vectors": ((1, T, D), np.float32),
        "partition_vectors": ((1, J, D), np.float32),
        "partition_mask": ((1, J), np.float32),
        "item_index": ((4,), np.int64),
        "item_categorical": ((4, 3), np.int64),
        "item_numeric": ((4, 3), np.float32),
        "item_vectors": ((4, D), np.float32),
    }
    assert {name: (array.shape, array.dtype.type) for name, array in made.items()} == expected
    assert tuple(expected) == tuple(made) == INPUTS == USER_INPUTS + ITEM_INPUTS


def test_a_short_history_is_padded_at_the_end() -> None:
    made = tensors(user(("a", 5.0), ("b", 2.0)), "a")
    assert made["history_index"].tolist() == [[1, 2, 0]]
    assert made["history_value"].tolist() == [[1.0, -0.5, 0.0]]
    assert made["history_mask"].tolist() == [[1.0, 1.0, 0.0]]
    assert made["history_categorical"].tolist() == [[[1, 2, 1], [2, 0, 2], [0, 0, 0]]]
    assert made["history_vectors"].tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]


def test_only_the_last_events_of_a_long_history_count() -> None:
    long = [("c", 1.0), ("c", 1.0), ("a", 5.0), ("b", 2.0), ("a", 4.0)]
    cut, short = tensors(user(*long), "a"), tensors(user(*long[-T:]), "a")
    for name in INPUTS:
        np.testing.assert_array_equal(cut[name], short[name])
    assert cut["history_index"].tolist() == [[1, 2, 1]]


def test_an_item_without_row_keeps_its_value_and_its_place() -> None:
    made = tensors(user(("gone", 5.0), ("a", 1.0)), "a")
    assert made["history_index"].tolist() == [[0, 1, 0]]
    assert made["history_value"].tolist() == [[1.0, -1.0, 0.0]]
    assert made["history_mask"].tolist() == [[1.0, 1.0, 0.0]]
    assert made["user_numeric"].tolist() == tensors(user(("b", 5.0), ("a", 1.0)), "a")["user_numeric"].tolist()


def test_an_item_without_id_embedding_keeps_everything_else() -> None:
    made = tensors(user(("c", 5.0)), "c")
    assert (made["history_index"][0, 0], made["item_index"][0]) == (0, 0)
    assert made["history_vectors"][0, 0].tolist() == made["item_vectors"][0].tolist() == [7, 8, 9]
    np.testing.assert_allclose(made["item_numeric"][0], [0.7, 0.8, 0.9], rtol=1e-6)


def test_a_user_of_whom_nothing_is_known() -> None:
    nobody = UserBatch.single(SCHEMA, TABLE, {}, history(), None)
    made = tensors(nobody, "a")
    assert not any(made[name].any() for name in USER_INPUTS)


def test_an_unknown_candidate_is_the_unknown_item() -> None:
    made = tensors(user(), "nowhere")
    assert made["item_index"].tolist() == [0]
    for name in ITEM_INPUTS:
        np.testing.assert_array_equal(made[name][0], getattr(TABLE, name.removeprefix("item_"))[0])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_partitions_are_padded_at_the_end(count: int) -> None:
    made = tensors(user(partitions=count), "a")
    assert made["partition_mask"].tolist() == [[1.0] * count + [0.0] * (J - count)]
    assert made["partition_vectors"].reshape(-1).tolist() == [*range(1, 1 + count * D), *[0] * (J - count) * D]


def test_only_the_last_partitions_count() -> None:
    made = tensors(user(partitions=5), "a")
    assert made["partition_vectors"].tolist() == [[[10, 11, 12], [13, 14, 15]]]
    assert made["partition_mask"].tolist() == [[1.0, 1.0]]


def test_without_knowledge_equals_a_user_and_items_that_have_none() -> None:
    events = (("a", 5.0), ("b", 2.0))
    hidden = tensors(user(*events, partitions=2), "a", "c", knowledge=False)
    bare = replace(TABLE, vectors=np.zeros_like(TABLE.vectors))
    nobody = UserBatch.single(SCHEMA, bare, {"age": 20}, history(*events), None)
    never = encode(SCHEMA, bare, nobody, ItemBatch.gather(bare, bare.rows_of(["a", "c"])))
    for name in INPUTS:
        assert hidden[name].dtype == never[name].dtype
        np.testing.assert_array_equal(hidden[name], never[name])


def test_emptying_knowledge_leaves_the_given_tensors_alone() -> None:
    full = tensors(user(("a", 5.0), partitions=2), "a")
    emptied = without_knowledge(full)
    assert not any(array.any() for array in emptied.values())
    assert all(full[name].any() for name in emptied)


def test_user_statistics_against_hand_computed_values() -> None:
    values = np.array([[5.0, 1.0, 4.0, 999.0]], np.float32)
    count, mean, liked, spread = user_statistics(SCHEMA, values, np.array([[True, True, True, False]]))[0].tolist()
    centered = np.array([1.0, -1.0, 0.5])
    assert count == pytest.approx(np.log(4) / 5)
    assert mean == pytest.approx(centered.sum() / 6)
    assert liked == pytest.approx(2 * (2 + 1.5) / 6 - 1)
    assert spread == pytest.approx(np.sqrt((centered**2).sum() / 6 - (centered.sum() / 6) ** 2))


def test_candidates_with_other_statistics_or_fields_leave_the_table_alone() -> None:
    items = ItemBatch.gather(TABLE, TABLE.rows_of(["a", "new"]))
    before = TABLE.categorical.copy(), TABLE.numeric.copy()
    changed = items.with_categorical(np.array([1]), np.array([[2, 2, 2]])).with_numeric(np.ones((2, 3), np.float32))
    assert changed.categorical.tolist() == [[1, 2, 1], [2, 2, 2]]
    assert changed.numeric.tolist() == [[1.0] * 3] * 2
    assert items.categorical.tolist() == [[1, 2, 1], [0, 0, 0]]
    np.testing.assert_array_equal(before[0], TABLE.categorical)
    np.testing.assert_array_equal(before[1], TABLE.numeric)
