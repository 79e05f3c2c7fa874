"""Many records at once are read as one by one, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract.bulk import item_rows, knowledge_rows
from models.contract.knowledge import KnowledgeRecord, RecordError
from tests.contract.golden import OTHER_SPACE, SCHEMA, SPACE, resealed
from tests.contract.item_record import ItemRecord

DIM = 3
CHANGES: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {"rows": 2}, {"dim": 2}, {"space": OTHER_SPACE}, {"codes": (1,)}, {"codes": (3, 2**16 - 1)}
)  # fmt: skip
OWNERS = ("a", "b", "zoë", "a", "longer name", "")


def knowledge(owner: str, *, rows: int = 1, dim: int = DIM, space: str = SPACE, codes: tuple[int, ...] = ()) -> bytes:
    vectors = (np.arange(rows * dim).reshape(rows, dim) / 4 - len(owner)).astype(np.float32)
    return KnowledgeRecord(owner, space, vectors, 5, 7 + len(owner), codes).pack("int8" if owner == "b" else "float16")


def item(owner: str, *, schema: str = SCHEMA.fingerprint, index: int = 9) -> bytes:
    slots = tuple(range(len(owner), len(owner) + SCHEMA.item_slots))
    return ItemRecord(owner, schema, index, slots, (0.5, -1.0, float(len(owner))), 5).pack()


def harmed(draw: st.DrawFn, blob: bytes) -> bytes | None:
    match draw(st.integers(0, 8)):
        case 0:
            return None
        case 1:
            return b""
        case 2:
            return blob[: draw(st.integers(0, len(blob) - 1))]
        case 3:
            at = draw(st.integers(0, len(blob) - 1))
            return blob[:at] + bytes([blob[at] ^ draw(st.integers(1, 255))]) + blob[at + 1 :]
        case 4:
            return resealed(blob, draw(st.integers(0, len(blob) - 5)), draw(st.integers(0, 255)))
    return blob


@st.composite
def knowledge_blobs(draw: st.DrawFn) -> tuple[list[bytes | None], list[str]]:
    owners = draw(st.lists(st.sampled_from(OWNERS), max_size=8))
    blobs = []
    for owner in owners:
        named = draw(st.sampled_from((owner, owner, owner, *OWNERS)))
        changes = draw(st.sampled_from(CHANGES))
        blobs.append(harmed(draw, knowledge(named, **changes)))
    return blobs, owners


@st.composite
def item_blobs(draw: st.DrawFn) -> tuple[list[bytes | None], list[str]]:
    owners = draw(st.lists(st.sampled_from(OWNERS), max_size=8))
    blobs = []
    for owner in owners:
        named = draw(st.sampled_from((owner, owner, owner, *OWNERS)))
        changes = draw(st.sampled_from(({}, {}, {}, {"schema": "0" * 16}, {"index": 2**32 - 1})))
        blobs.append(harmed(draw, item(named, **changes)))  # type: ignore[arg-type]
    return blobs, owners


@settings(max_examples=120, deadline=None)
@given(knowledge_blobs())
def test_knowledge_is_read_as_one_by_one(given: tuple[list[bytes | None], list[str]]) -> None:
    blobs, owners = given
    read = knowledge_rows(blobs, owners, SPACE, DIM)
    expected = {}
    for at, (blob, owner) in enumerate(zip(blobs, owners, strict=True)):
        try:
            record = KnowledgeRecord.unpack(blob or b"", owner, SPACE)
        except RecordError:
            continue
        if record.vectors.shape == (1, DIM):
            expected[at] = (record.vectors[0].tobytes(), record.expires_at)
    records = {
        at: (vector.tobytes(), expires)
        for at, vector, expires in zip(read.at.tolist(), read.vectors, read.expires_at.tolist(), strict=True)
    }
    assert records == expected
    assert read.vectors.dtype == np.float32


@settings(max_examples=120, deadline=None)
@given(item_blobs())
def test_items_are_read_as_one_by_one(given: tuple[list[bytes | None], list[str]]) -> None:
    blobs, owners = given
    read = item_rows(blobs, owners, SCHEMA)
    expected = {}
    for at, (blob, owner) in enumerate(zip(blobs, owners, strict=True)):
        try:
            record = ItemRecord.unpack(blob or b"", owner, SCHEMA)
        except RecordError:
            continue
        numeric = np.asarray(record.numeric, np.float32)
        expected[at] = (record.index, record.categorical, numeric.tobytes())
    records = {
        at: (index, tuple(fields), numeric.tobytes())
        for at, index, fields, numeric in zip(
            read.at.tolist(), read.index.tolist(), read.categorical.tolist(), read.numeric, strict=True
        )
    }
    assert records == expected


@pytest.mark.parametrize("blobs", [[], [None], [b""]])
def test_of_nothing_nothing_is_read(blobs: list[bytes | None]) -> None:
    owners = ["a"] * len(blobs)
    assert knowledge_rows(blobs, owners, SPACE, DIM).vectors.shape == (0, DIM)
    assert item_rows(blobs, owners, SCHEMA).categorical.shape == (0, SCHEMA.item_slots)


def test_whatever_is_right_is_read() -> None:
    owners = [f"user {at}" for at in range(200)]
    read = knowledge_rows([knowledge(owner) for owner in owners], owners, SPACE, DIM)
    assert sorted(read.at.tolist()) == list(range(200))
    assert len(item_rows([item(owner) for owner in owners], owners, SCHEMA).at) == 200
