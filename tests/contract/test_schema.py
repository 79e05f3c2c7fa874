"""Feature schemas: what is refused when one is made, how raw values are encoded, and fingerprints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.contract.schema import FeatureSchema, FieldSpec, fingerprint
from tests.contract.golden import SCHEMA

GENRES = FieldSpec(name="genres", vocab=("Drama", "Comedy", "War"), slots=2)
YEAR = FieldSpec(name="year", edges=(1990, 2000))
LIBER, TEXT, PORTRAIT, LINKS = (spec.model_dump() for spec in SCHEMA.knowledge)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"name": "x"}, "needs either vocab or edges"),
        ({"name": "x", "vocab": ["a"], "edges": [1]}, "needs either vocab or edges"),
        ({"name": "x", "vocab": ["a", "b", "a"]}, "repeats a vocabulary entry"),
        ({"name": "x", "edges": [2, 1]}, "strictly rising"),
        ({"name": "x", "edges": [1, 1]}, "strictly rising"),
        ({"name": "x", "vocab": ["a"], "slots": 0}, "slots"),
        ({"name": "x", "vocab": ["a"], "slots": 65}, "slots"),
        ({"name": "x", "vocab": ["a"], "slot": 2}, "slot"),
        ({"vocab": ["a"]}, "name"),
    ],
)
def test_impossible_fields_are_refused(document: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FieldSpec.model_validate(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_fields": [YEAR, YEAR]}, "repeats a field name"),
        ({"item_fields": [GENRES, GENRES]}, "repeats a field name"),
        ({"history_length": 0}, "history_length"),
        ({"partitions": 2}, "partitions"),
        ({"knowledge": [LIBER, PORTRAIT, LIBER]}, "repeats knowledge"),
        ({"knowledge": [PORTRAIT, {**PORTRAIT, "dim": 5}]}, "repeats knowledge"),
        ({"knowledge": [{**TEXT, "rows": 2}]}, "an item has one vector"),
        ({"knowledge": [LIBER, {**PORTRAIT, "rows": 2}]}, "only one space of a user may be a sequence"),
        ({"knowledge": [{**LIBER, "rows": 0}]}, "rows"),
        ({"knowledge": [{**LIBER, "rows": 256}]}, "rows"),
        ({"knowledge": [{**TEXT, "dim": 0}]}, "dim"),
        ({"knowledge": [{**TEXT, "dim": 4097}]}, "dim"),
        ({"knowledge": [{**TEXT, "side": "context"}]}, "side"),
        ({"knowledge": [{**TEXT, "name": "a/b"}]}, "name"),
        ({"knowledge": [{**TEXT, "name": ""}]}, "name"),
        ({"knowledge": [{**TEXT, "space": "x"}]}, "space"),
        ({"value_scale": 0}, "value_scale"),
        ({"prior_liked": 1}, "prior_liked"),
        ({"prior_liked": 0}, "prior_liked"),
        ({"history_lenght": 3}, "history_lenght"),
    ],
)
def test_impossible_schemas_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FeatureSchema.model_validate({**SCHEMA.model_dump(), **change})


def test_spellings_of_an_accent_are_one_value() -> None:
    composed, decomposed = "Kom\u00f6die", "Komo\u0308die"
    field = FieldSpec(name="genres", vocab=(decomposed, "Krimi", "\u7535\u5f71"), slots=3)
    assert field.encode([composed, decomposed, "\u7535\u5f71"]) == [1, 1, 3]
    assert field.encode_each([decomposed, composed]) == [1, 0, 0, 1, 0, 0]
    assert field.encode(["komo\u0308die", "\uff2b\uff52\uff49\uff4d\uff49", "Kom\u0443die"]) == [0, 0, 0]
    with pytest.raises(ValidationError, match="repeats a vocabulary entry"):
        FieldSpec(name="genres", vocab=(composed, decomposed))


def test_a_schema_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SCHEMA.name = "x"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("Drama", [1, 0]),
        (["Comedy"], [2, 0]),
        (("War", "Drama"), [3, 1]),
        (["War", "Drama", "Comedy"], [3, 1]),
        (["Nonsense", "Drama"], [0, 1]),
        (["Drama", None], [1, 0]),
        ([], [0, 0]),
        (None, [0, 0]),
        ("", [0, 0]),
        ("drama", [0, 0]),
        (1, [0, 0]),
        ({"Drama": 1}, [0, 0]),
        ([["Drama"]], [0, 0]),
    ],
)
def test_vocabulary_values(value: object, encoded: list[int]) -> None:
    assert GENRES.encode(value) == encoded


def test_a_vocabulary_of_numbers_understands_numbers() -> None:
    assert FieldSpec(name="zip", vocab=("1", "2.5")).encode(1) == [1]
    assert FieldSpec(name="zip", vocab=("1", "2.5")).encode(2.5) == [2]


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (1989.999, 1),
        (1990, 2),
        (1999, 2),
        (2000, 3),
        (np.float32(1995), 2),
        ("1995", 2),
        (" 1995 ", 2),
        (-np.inf, 1),
        (np.inf, 3),
        (np.nan, 0),
        ("nan", 0),
        (None, 0),
        ("nineteen", 0),
        ("", 0),
        ([1995], 2),
        ([1995, 2005], 2),
        ([], 0),
        ({}, 0),
        (1j, 0),
        (10**400, 0),
    ],
)
def test_bucketed_values(value: object, encoded: int) -> None:
    assert YEAR.encode(value) == [encoded]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)


@given(_json)
def test_encoding_never_raises_and_stays_in_range(value: object) -> None:
    for spec in (GENRES, YEAR):
        indices = spec.encode(value)
        assert len(indices) == spec.slots
        assert all(0 <= index < spec.cardinality for index in indices)


def test_cardinalities_count_the_unknown_index() -> None:
    assert (GENRES.cardinality, YEAR.cardinality) == (4, 4)


def test_fields_follow_each_other_in_schema_order() -> None:
    assert (SCHEMA.user_slots, SCHEMA.item_slots) == (1, 3)
    assert SCHEMA.encode_item_fields({"year": 1995, "genres": ["Comedy"], "other": 1}) == [2, 0, 2]
    assert SCHEMA.encode_item_fields({}) == [0, 0, 0]
    assert SCHEMA.encode_user_fields({"age": 35}) == [3]


def test_knowledge_lies_side_by_side_in_schema_order() -> None:
    assert [spec.key for spec in SCHEMA.user_knowledge] == ["user/liber", "user/portrait"]
    assert [spec.key for spec in SCHEMA.item_knowledge] == ["item/item-text", "item/links"]
    assert SCHEMA.sequence == SCHEMA.knowledge[0]
    assert SCHEMA.user_columns == {"portrait": slice(0, 2)}
    assert SCHEMA.item_columns == {"item-text": slice(0, 3), "links": slice(3, 4)}
    assert (SCHEMA.user_width, SCHEMA.item_width) == (2, 4)


def test_one_producer_may_know_users_and_items() -> None:
    both = FeatureSchema.model_validate({**SCHEMA.model_dump(), "knowledge": [LIBER, {**TEXT, "name": "liber"}, LINKS]})
    assert both.item_columns == {"liber": slice(0, 3), "links": slice(3, 4)}
    assert [spec.key for spec in both.with_knowledge(["liber"]).knowledge] == ["user/liber", "item/liber"]


def test_a_schema_may_read_less_knowledge_or_none() -> None:
    some = SCHEMA.with_knowledge(["links", "portrait", "unheard-of"])
    assert [spec.name for spec in some.knowledge] == ["portrait", "links"]
    assert (some.sequence, some.user_columns, some.item_columns) == (
        None, {"portrait": slice(0, 2)}, {"links": slice(0, 1)}
    )  # fmt: skip
    none = SCHEMA.with_knowledge([])
    assert (none.sequence, none.user_width, none.item_width, none.item_columns) == (None, 0, 0, {})
    assert none.item_fields == SCHEMA.item_fields
    assert len({SCHEMA.fingerprint, some.fingerprint, none.fingerprint}) == 3
    assert SCHEMA.with_knowledge([spec.name for spec in SCHEMA.knowledge]) == SCHEMA


def test_a_sequence_of_one_vector_is_a_single_vector() -> None:
    schema = FeatureSchema.model_validate({**SCHEMA.model_dump(), "knowledge": [{**LIBER, "rows": 1}, PORTRAIT]})
    assert schema.sequence is None
    assert schema.user_columns == {"liber": slice(0, 3), "portrait": slice(3, 5)}


def test_fingerprints() -> None:
    assert SCHEMA.fingerprint == "7f82efc59afe30ba"
    assert fingerprint({"b": [1, 2.5], "a": "é"}) == "123b424b7606d08d"
    assert fingerprint({"a": "é", "b": [1, 2.5]}, 64).startswith("123b424b7606d08d")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"name": "x"}, {"user_fields": []}, {"item_fields": [GENRES]}, {"history_length": 4},
        {"history_types": ["click"]}, {"value_center": 2.5}, {"value_scale": 1.0}, {"liked_above": 3.5},
        {"prior_liked": 0.4}, {"knowledge": []}, {"knowledge": [LIBER, TEXT]}, {"knowledge": SCHEMA.knowledge[::-1]},
        {"knowledge": [{**LIBER, "dim": 4}, *SCHEMA.knowledge[1:]]},
        {"knowledge": [{**LIBER, "rows": 3}, *SCHEMA.knowledge[1:]]},
    ],
)  # fmt: skip
def test_every_part_of_a_schema_shapes_its_fingerprint(change: dict[str, object]) -> None:
    changed = FeatureSchema.model_validate({**SCHEMA.model_dump(), **change})
    assert changed.fingerprint != SCHEMA.fingerprint


def test_a_schema_reads_back_with_the_same_fingerprint() -> None:
    assert FeatureSchema.model_validate_json(SCHEMA.model_dump_json()).fingerprint == SCHEMA.fingerprint


def test_values_outside_the_range_are_not_accepted() -> None:
    assert SCHEMA.accepts(1.0)
    assert SCHEMA.accepts(5.0)
    assert not SCHEMA.accepts(0.99)
    assert not SCHEMA.accepts(1e9)
    assert not SCHEMA.accepts(float("nan"))


@pytest.mark.parametrize("change", [{"value_min": 3.5}, {"value_max": 3.0}])
def test_the_liked_threshold_lies_in_the_range(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="liked_above"):
        FeatureSchema.model_validate({**SCHEMA.model_dump(), **change})


class Named(str):
    """Equal to its text, and yet told otherwise."""

    def __str__(self) -> str:
        return "another"


VALUES = st.one_of(
    st.sampled_from(
        ["Comedy", "Drama", "1", "1.0", "True", "another", Named("Comedy"), 1, 1.0, True, 1995, 1995.5, None]
    ),
    st.lists(st.sampled_from(["Comedy", "Drama", Named("Drama"), "1", 1, True, 1.0, None]), max_size=4),
    st.tuples(st.sampled_from(["Comedy", 1])),
    st.sampled_from([-0.0, 0.0, 10**400, "nan", float("nan"), {"a": 1}, [["Comedy"]]]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional={"genres": VALUES, "year": VALUES, "other": VALUES}), max_size=12))
def test_many_items_are_encoded_as_one_by_one(items: list[dict[str, object]]) -> None:
    genres = FieldSpec(name="genres", vocab=("Comedy", "1", "True", "another"), slots=2)
    schema = SCHEMA.model_copy(update={"item_fields": (genres, FieldSpec(name="year", edges=(0, 1990)))})
    encoded = schema.encode_each_item(items)
    assert encoded.shape == (len(items), 3)
    assert encoded.tolist() == [schema.encode_item_fields(fields) for fields in items]
