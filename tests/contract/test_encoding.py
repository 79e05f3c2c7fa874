"""The encoder: shapes, padding, cut histories, unknown items, and what is left without knowledge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.contract.encoding import (
    KNOWLEDGE_INPUTS,
    ItemBatch,
    Tensors,
    UserBatch,
    encode,
    model_inputs,
    user_statistics,
    without_knowledge,
)
from models.contract.events import EVENT_DTYPE, EventArray, Interaction
from models.contract.items import ItemTable
from models.contract.schema import FeatureSchema
from tests.contract.golden import SCHEMA
from tests.plain_inputs import INPUTS, ITEM_INPUTS, USER_INPUTS

T, J, D, Wu, Wi = SCHEMA.history_length, 2, 3, SCHEMA.user_width, SCHEMA.item_width
BARE_SCHEMA = SCHEMA.with_knowledge(())

TABLE = ItemTable.build(
    SCHEMA,
    ids=("a", "b", "c"),
    index=[1, 2, 0],
    categorical=[[1, 2, 1], [2, 0, 2], [1, 0, 1]],
    numeric=[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]],
    vectors=np.array([[1, 2, 3, 10], [4, 5, 6, 20], [7, 8, 9, 30]], np.float32),
    expires_at=np.zeros((3, 2)),
)
BARE_TABLE = replace(TABLE, vectors=TABLE.vectors[:, :0], expires_at=TABLE.expires_at[:, :0])


def history(*events: tuple[str, float]) -> EventArray:
    """A packed live history of (item, value) pairs, read back."""
    packed = b"".join(
        Interaction(user_id="u", item_id=item, value=value, time_ms=at).pack()
        for at, (item, value) in enumerate(events)
    )
    return np.frombuffer(packed, EVENT_DTYPE)


def user(*events: tuple[str, float], partitions: int = 0, portrait: bool = False) -> UserBatch:
    knowledge = {}
    if partitions:
        knowledge["liber"] = np.arange(1, 1 + partitions * D, dtype=np.float32).reshape(partitions, D)
    if portrait:
        knowledge["portrait"] = np.array([[8.0, 9.0]], np.float32)
    return UserBatch.single(SCHEMA, TABLE, {"age": 20}, history(*events), knowledge, 0)


def tensors(batch: UserBatch, *items: str, knowledge: bool = True) -> Tensors:
    return encode(SCHEMA, TABLE, batch, ItemBatch.gather(TABLE, TABLE.rows_of(items)), knowledge=knowledge)


def test_names_shapes_and_types_of_all_inputs() -> None:
    inputs = tensors(user(("a", 5.0), partitions=1), "a", "b", "c", "nowhere")
    expected = {
        "user_categorical": ((1, 1), np.int64),
        "user_numeric": ((1, 4), np.float32),
        "history_index": ((1, 1), np.int64),
        "history_categorical": ((1, 1, 3), np.int64),
        "history_numeric": ((1, 1, 3), np.float32),
        "history_value": ((1, 1), np.float32),
        "history_mask": ((1, 1), np.float32),
        "history_vectors": ((1, 1, Wi), np.float32),
        "user_vectors": ((1, Wu), np.float32),
        "partition_vectors": ((1, J, D), np.float32),
        "partition_mask": ((1, J), np.float32),
        "item_index": ((4,), np.int64),
        "item_categorical": ((4, 3), np.int64),
        "item_numeric": ((4, 3), np.float32),
        "item_vectors": ((4, Wi), np.float32),
    }
    assert {name: (array.shape, array.dtype.type) for name, array in inputs.items()} == expected
    assert tuple(expected) == tuple(inputs) == INPUTS
    assert INPUTS == USER_INPUTS + ITEM_INPUTS


def test_a_history_is_as_long_as_it_is() -> None:
    inputs = tensors(user(("a", 5.0), ("b", 2.0)), "a")
    assert inputs["history_index"].tolist() == [[1, 2]]
    assert inputs["history_value"].tolist() == [[1.0, -0.5]]
    assert inputs["history_mask"].tolist() == [[1.0, 1.0]]
    assert inputs["history_categorical"].tolist() == [[[1, 2, 1], [2, 0, 2]]]
    np.testing.assert_allclose(inputs["history_numeric"], [[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]], rtol=1e-6)
    assert inputs["history_vectors"].tolist() == [[[1, 2, 3, 10], [4, 5, 6, 20]]]


def test_shorter_histories_of_a_batch_are_padded_at_the_end() -> None:
    batch = user(("a", 5.0), ("b", 2.0))
    padded = replace(batch, history_rows=np.array([[1, 2, 0]]), history_values=np.array([[5.0, 2.0, 0.0]], np.float32))
    inputs = tensors(padded, "a")
    assert inputs["history_index"].tolist() == [[1, 2, 0]]
    assert inputs["history_value"].tolist() == [[1.0, -0.5, 0.0]]
    assert inputs["history_mask"].tolist() == [[1.0, 1.0, 0.0]]
    for name in ("history_categorical", "history_numeric", "history_vectors"):
        assert not inputs[name][0, 2].any(), name


def test_only_the_last_events_of_a_long_history_count() -> None:
    long = [("c", 1.0), ("c", 1.0), ("a", 5.0), ("b", 2.0), ("a", 4.0)]
    cut, short = tensors(user(*long), "a"), tensors(user(*long[-T:]), "a")
    for name in cut:
        np.testing.assert_array_equal(cut[name], short[name])
    assert cut["history_index"].tolist() == [[1, 2, 1]]


def test_an_item_without_row_keeps_its_value_and_its_place() -> None:
    inputs = tensors(user(("gone", 5.0), ("a", 1.0)), "a")
    assert inputs["history_index"].tolist() == [[0, 1]]
    assert inputs["history_value"].tolist() == [[1.0, -1.0]]
    assert inputs["history_mask"].tolist() == [[1.0, 1.0]]
    assert inputs["user_numeric"].tolist() == tensors(user(("b", 5.0), ("a", 1.0)), "a")["user_numeric"].tolist()


def test_an_item_without_id_embedding_keeps_everything_else() -> None:
    inputs = tensors(user(("c", 5.0)), "c")
    assert (inputs["history_index"][0, 0], inputs["item_index"][0]) == (0, 0)
    assert inputs["history_vectors"][0, 0].tolist() == inputs["item_vectors"][0].tolist() == [7, 8, 9, 30]
    np.testing.assert_allclose(inputs["item_numeric"][0], [0.7, 0.8, 0.9], rtol=1e-6)


def test_a_user_of_whom_nothing_is_known() -> None:
    nobody = UserBatch.single(SCHEMA, TABLE, {}, history(), {}, 0)
    inputs = tensors(nobody, "a")
    assert not any(inputs[name].any() for name in USER_INPUTS)


def test_an_unknown_candidate_is_the_unknown_item() -> None:
    inputs = tensors(user(), "nowhere")
    assert inputs["item_index"].tolist() == [0]
    for name in ITEM_INPUTS:
        np.testing.assert_array_equal(inputs[name][0], getattr(TABLE, name.removeprefix("item_"))[0])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_partitions_are_padded_at_the_end(count: int) -> None:
    inputs = tensors(user(partitions=count), "a")
    assert inputs["partition_mask"].tolist() == [[1.0] * count + [0.0] * (J - count)]
    assert inputs["partition_vectors"].reshape(-1).tolist() == [*range(1, 1 + count * D), *[0] * (J - count) * D]


def test_only_the_last_partitions_count() -> None:
    inputs = tensors(user(partitions=5), "a")
    assert inputs["partition_vectors"].tolist() == [[[10, 11, 12], [13, 14, 15]]]
    assert inputs["partition_mask"].tolist() == [[1.0, 1.0]]


def test_the_vectors_of_a_user_lie_in_the_columns_of_their_spaces() -> None:
    portrait = SCHEMA.knowledge[2]
    schema = SCHEMA.model_copy(update={"knowledge": (portrait.model_copy(update={"name": "mood"}), *SCHEMA.knowledge)})
    schema = FeatureSchema.model_validate(schema.model_dump())
    vectors = {name: np.full((1, 2), value, np.float32) for name, value in (("portrait", 1), ("mood", 2), ("other", 3))}
    for given, expected in (
        (("mood", "portrait", "other"), [2, 2, 1, 1]),
        (("portrait",), [0, 0, 1, 1]),
        (("mood",), [2, 2, 0, 0]),
        (("other",), [0, 0, 0, 0]),
    ):
        batch = UserBatch.single(schema, TABLE, {}, history(), {name: vectors[name] for name in given}, 0)
        inputs = encode(schema, TABLE, batch, ItemBatch.gather(TABLE, TABLE.rows_of(["a"])))
        assert inputs["user_vectors"].tolist() == [expected]
        assert not inputs["partition_mask"].any()


def test_partitions_do_not_stand_in_for_other_knowledge_nor_the_other_way_round() -> None:
    assert not tensors(user(partitions=2), "a")["user_vectors"].any()
    inputs = tensors(user(portrait=True), "a")
    assert inputs["user_vectors"].tolist() == [[8, 9]]
    assert not inputs["partition_vectors"].any()
    assert not inputs["partition_mask"].any()


def test_a_schema_without_knowledge_leaves_its_inputs_without_columns() -> None:
    known = {"liber": np.ones((2, D), np.float32), "portrait": np.ones((1, 2), np.float32)}
    batch = UserBatch.single(BARE_SCHEMA, BARE_TABLE, {"age": 20}, history(("a", 5.0)), known, 0)
    items = ItemBatch.gather(BARE_TABLE, BARE_TABLE.rows_of(["a", "b"]))
    inputs = encode(BARE_SCHEMA, BARE_TABLE, batch, items)
    shapes = {name: inputs[name].shape for name in KNOWLEDGE_INPUTS}
    assert shapes == {
        "history_vectors": (1, 1, 0), "user_vectors": (1, 0), "partition_vectors": (1, 0, 0), "partition_mask": (1, 0),
        "item_vectors": (2, 0),
    }  # fmt: skip
    full = tensors(user(("a", 5.0)), "a", "b")
    for name in model_inputs(BARE_SCHEMA):
        np.testing.assert_array_equal(inputs[name], full[name])
    hidden = encode(BARE_SCHEMA, BARE_TABLE, batch, items, knowledge=False)
    assert {name: hidden[name].shape for name in KNOWLEDGE_INPUTS} == shapes


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        (["liber", "item-text", "portrait", "links"], set()),
        (["liber", "links"], {"user_vectors"}),
        (["portrait", "item-text"], {"partition_vectors", "partition_mask"}),
        (["liber", "portrait"], {"history_vectors", "item_vectors"}),
        ([], set(KNOWLEDGE_INPUTS)),
    ],
)
def test_a_model_reads_the_inputs_that_its_schema_fills(names: list[str], absent: set[str]) -> None:
    assert model_inputs(SCHEMA.with_knowledge(names)) == tuple(name for name in INPUTS if name not in absent)


def test_without_knowledge_equals_a_user_and_items_that_have_none() -> None:
    events = (("a", 5.0), ("b", 2.0))
    hidden = tensors(user(*events, partitions=2, portrait=True), "a", "c", knowledge=False)
    bare = replace(TABLE, vectors=np.zeros_like(TABLE.vectors))
    nobody = UserBatch.single(SCHEMA, bare, {"age": 20}, history(*events), {}, 0)
    never = encode(SCHEMA, bare, nobody, ItemBatch.gather(bare, bare.rows_of(["a", "c"])))
    for name in INPUTS:
        assert hidden[name].dtype == never[name].dtype
        np.testing.assert_array_equal(hidden[name], never[name])


def test_emptying_knowledge_leaves_the_given_tensors_alone() -> None:
    full = tensors(user(("a", 5.0), partitions=2, portrait=True), "a")
    emptied = without_knowledge(full)
    assert tuple(emptied) == KNOWLEDGE_INPUTS
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
