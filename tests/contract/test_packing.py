"""Many records at once are packed as one by one, byte for byte, and refused as one by one."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from models.contract.arrays import FloatArray
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.packing import ITEM, KNOWLEDGE, item_contents, knowledge_contents
from models.contract.profile import UserProfile, packed_profile
from tests.contract.golden import SCHEMA
from tests.contract.item_record import ItemRecord

Dtype = Literal["float16", "int8"]

OWNERS = st.one_of(st.sampled_from(["a", "b", "zoë", "", "用户", "a much longer name"]), st.text(max_size=6))
NUMBERS = st.one_of(
    st.floats(-65000, 65000, width=32), st.sampled_from([0.0, -0.0, 1e-30, 2e-30, 1e-38, 1e-45, 65504.0, 127.0, 63.5])
)
TIMES = st.integers(-(2**63), 2**63 - 1)


def space_of(dtype: Dtype) -> Space:
    return Space(name="test", side="user", rows=9, dim=3, dtype=dtype, components={})


@st.composite
def knowledge(draw: st.DrawFn) -> tuple[Space, list[KnowledgeRecord]]:
    space = space_of(draw(st.sampled_from(["float16", "int8"])))
    dim, codes = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    at = (draw(TIMES), draw(TIMES))
    records = []
    for owner in draw(st.lists(OWNERS, max_size=8)):
        shape = (draw(st.integers(0, 3)), dim)
        vectors = draw(hnp.arrays(np.float32, shape, elements=NUMBERS))
        said = draw(st.lists(st.integers(0, 65535), min_size=codes, max_size=codes))
        records.append(KnowledgeRecord(owner, space.fingerprint, vectors, *at, tuple(said)))
    return space, records


def contents_of(space: Space, records: list[KnowledgeRecord]) -> list[bytes]:
    return knowledge_contents(
        space,
        [record.owner for record in records],
        np.array([len(record.vectors) for record in records], np.int64),
        np.concatenate([record.vectors for record in records]),
        np.array([record.codes for record in records], np.uint16),
    )


@settings(max_examples=120, deadline=None)
@given(knowledge())
def test_knowledge_is_packed_as_one_by_one(given: tuple[Space, list[KnowledgeRecord]]) -> None:
    space, records = given
    if not records:
        return
    expected = [record.pack(space.dtype) for record in records]
    at = (records[0].written_at, records[0].expires_at)
    contents = contents_of(space, records)
    assert KNOWLEDGE.sealed(contents, *at) == expected
    assert [KNOWLEDGE.content(blob) for blob in expected] == contents
    assert {KNOWLEDGE.times_of(blob) for blob in expected} == {at}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(OWNERS, st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), NUMBERS), max_size=8), TIMES
)
def test_items_are_packed_as_one_by_one(given: list[tuple[str, int, int, float]], now: int) -> None:
    slots = SCHEMA.item_slots
    records = [
        ItemRecord(owner, SCHEMA.fingerprint, index, (cell,) * slots, (number, -number, 0.5), now)
        for owner, index, cell, number in given
    ]
    contents = item_contents(
        SCHEMA.fingerprint,
        [record.owner for record in records],
        np.array([record.index for record in records], np.int64),
        np.array([record.categorical for record in records], np.int32).reshape(-1, slots),
        np.array([record.numeric for record in records], np.float32).reshape(-1, 3),
    )
    expected = [record.pack() for record in records]
    assert ITEM.sealed(contents, now) == expected
    assert [ITEM.content(blob) for blob in expected] == contents
    assert {ITEM.times_of(blob) for blob in expected} <= {(now,)}


def test_of_nobody_nothing_is_packed() -> None:
    none = np.zeros((0, 3), np.float32)
    assert knowledge_contents(space_of("int8"), [], np.zeros(0, np.int64), none, np.zeros((0, 2), np.uint16)) == []
    assert item_contents(SCHEMA.fingerprint, [], np.zeros(0, np.int64), np.zeros((0, 3), np.int32), none) == []


def pair(**changes: Any) -> list[KnowledgeRecord]:
    """A good record and a bad one."""
    good = {"space": space_of("int8").fingerprint, "vectors": np.ones((2, 3), np.float32), "written_at": 0}
    return [
        KnowledgeRecord(owner="good", expires_at=1, codes=changes.get("codes", ()), **good),  # type: ignore[arg-type]
        KnowledgeRecord(**{"owner": "bad", "expires_at": 1, **good, **changes}),
    ]


def bad_vectors(value: float) -> FloatArray:
    return np.array([[1, 2, 3], [1, value, 3]], np.float32)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_name(dtype: Dtype, value: float) -> None:
    records = pair(vectors=bad_vectors(value))
    with pytest.raises(ValueError, match=r"^knowledge of 'bad' holds NaN or infinity$") as one_by_one:
        records[1].pack(dtype)
    with pytest.raises(ValueError, match=r"^knowledge of 'bad' holds NaN or infinity$") as at_once:
        contents_of(space_of(dtype), records)
    assert str(at_once.value) == str(one_by_one.value)


def test_what_does_not_fit_float16_is_refused_by_name() -> None:
    records = pair(vectors=bad_vectors(65520.0))
    for refused in (lambda: records[1].pack(), lambda: contents_of(space_of("float16"), records)):
        with pytest.raises(ValueError, match=r"^knowledge of 'bad' does not fit float16$"):
            refused()
    assert len(contents_of(space_of("int8"), records)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"owner": "x" * 65536}, "knowledge of 'x+' has too many rows or too long a name"),
        ({"vectors": np.zeros((65536, 3), np.float32)}, "knowledge of 'bad' has too many rows"),
        ({"codes": (1,) * 256}, "records of 3 numbers a row and 256 codes cannot be packed"),
    ],
)
def test_what_a_record_cannot_say_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contents_of(space_of("float16"), pair(**changes))


@pytest.mark.parametrize("index", [-1, 2**32])
def test_an_index_that_does_not_fit_is_refused(index: int) -> None:
    cells, numeric = np.zeros((2, SCHEMA.item_slots), np.int32), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="item 'bad' has no index of 32 bits"):
        item_contents(SCHEMA.fingerprint, ["good", "bad"], np.array([0, index]), cells, numeric)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    two, none = np.ones((2, 3), np.float32), np.zeros((2, 0), np.uint16)
    with pytest.raises(ValueError, match="2 owners of 3 rows, but 2 vectors, 2 codes"):
        knowledge_contents(space_of("int8"), ["a", "b"], np.array([1, 2]), two, none)
    with pytest.raises(ValueError, match="1 items, but categorical"):
        item_contents(SCHEMA.fingerprint, ["a"], np.array([1]), np.zeros((1, 3), np.int32), two)


class Named(str):
    """A text that pydantic takes for one, and JSON too."""


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=())),
    st.sampled_from([Named("n"), b"x", 10**400, -(2**63), 1e-7, 1e300, float("nan")]),
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    st.text(st.characters(exclude_categories=()), max_size=4), st.dictionaries(st.text(max_size=4), CELLS, max_size=4)
)
def test_profiles_are_packed_as_pydantic_does(owner: str, features: dict[str, Any]) -> None:
    try:
        expected = UserProfile(owner=owner, features=features).pack()
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011  # which one, depends on who looks first
            packed_profile(owner, features)
    else:
        assert packed_profile(owner, features) == expected
        assert packed_profile(owner, MappingProxyType(features)) == expected


@pytest.mark.parametrize("features", [{"genres": ["a"]}, {1: "a"}, {"a": ()}, None])
def test_what_is_no_profile_is_refused(features: Any) -> None:
    with pytest.raises(ValidationError):
        packed_profile("u", features)
