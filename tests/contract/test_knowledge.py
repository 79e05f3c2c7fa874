"""Knowledge records: their bytes, what they refuse, and the fingerprint of a space."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from models.contract.arrays import FloatArray
from models.contract.knowledge import KnowledgeRecord, RecordError, Space
from tests.contract.golden import (
    ITEM_SPACE,
    KNOWLEDGE,
    OTHER_SPACE,
    SCHEMA,
    SPACE,
    SPACES,
    USER_SPACE,
    flips,
    resealed,
    truncations,
)

Dtype = Literal["float16", "int8"]

FLOAT16 = bytes.fromhex(
    "4c4b" "01" "00" "0200" "0300" "02" "00" "0400" "0000803f"  # magic, version, dtype, rows, dim, codes, owner, scale
    "00f1536500000000" "007e7b6500000000" "0123456789abcdef"  # written at, expires at, space
    "7a6fc3ab" "0700ffff"  # owner "zoë", codes
    "003c" "00c0" "0038" "0034" "0042" "00b0"  # values
    "feea3e0e"  # crc32
)  # fmt: skip
INT8 = bytes.fromhex(
    "4c4b" "01" "01" "0200" "0300" "02" "00" "0400" "0683c13c"
    "00f1536500000000" "007e7b6500000000" "0123456789abcdef"
    "7a6fc3ab" "0700ffff"
    "2a" "ab" "15" "0b" "7f" "fb"
    "71b3fe69"
)  # fmt: skip

DTYPES: tuple[tuple[Dtype, bytes], ...] = (("float16", FLOAT16), ("int8", INT8))


@pytest.mark.parametrize(("dtype", "golden"), DTYPES)
def test_packs_to_golden_bytes(dtype: Dtype, golden: bytes) -> None:
    assert KNOWLEDGE.pack(dtype).hex() == golden.hex()


def test_unpacks_golden_float16() -> None:
    record = KnowledgeRecord.unpack(FLOAT16, "zoë", SPACE)
    np.testing.assert_array_equal(record.vectors, KNOWLEDGE.vectors)
    assert record.vectors.dtype == np.float32
    assert replace(record, vectors=KNOWLEDGE.vectors) == KNOWLEDGE


def test_unpacks_golden_int8_within_half_a_step() -> None:
    record = KnowledgeRecord.unpack(INT8, "zoë", SPACE)
    assert record.vectors.dtype == np.float32
    assert np.abs(record.vectors - KNOWLEDGE.vectors).max() <= 3.0 / 127 / 2 + 1e-6
    assert record.codes == (7, 65535)


@pytest.mark.parametrize(("_dtype", "golden"), DTYPES)
def test_refuses_every_truncation_and_every_changed_byte(_dtype: Dtype, golden: bytes) -> None:
    for damaged in (*truncations(golden), *flips(golden), golden + b"\0"):
        with pytest.raises(RecordError):
            KnowledgeRecord.unpack(damaged, "zoë", SPACE)


@pytest.mark.parametrize(("at", "byte"), [(0, 0x4D), (2, 0), (2, 2), (3, 2), (3, 255)])
def test_refuses_another_kind_version_or_dtype_even_if_whole(at: int, byte: int) -> None:
    with pytest.raises(RecordError, match="unknown kind"):
        KnowledgeRecord.unpack(resealed(FLOAT16, at, byte), "zoë", SPACE)


@pytest.mark.parametrize("owner", ["zoe", "zoë ", "", "ZOË"])
def test_refuses_another_owner(owner: str) -> None:
    with pytest.raises(RecordError, match="another owner"):
        KnowledgeRecord.unpack(FLOAT16, owner, SPACE)


def test_refuses_another_space() -> None:
    with pytest.raises(RecordError, match=f"is of space {SPACE}, expected {OTHER_SPACE}"):
        KnowledgeRecord.unpack(FLOAT16, "zoë", OTHER_SPACE)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_never_packs_what_is_not_finite(dtype: Dtype, bad: float) -> None:
    vectors = np.array([[1.0, bad]], np.float32)
    with pytest.raises(ValueError, match="NaN or infinity"):
        KnowledgeRecord("u", SPACE, vectors, 0, 1).pack(dtype)


def test_never_packs_what_float16_cannot_hold() -> None:
    with pytest.raises(ValueError, match="does not fit float16"):
        KnowledgeRecord("u", SPACE, np.array([[70_000.0]], np.float32), 0, 1).pack()


def test_never_packs_a_flat_array() -> None:
    with pytest.raises(ValueError, match="must be"):
        KnowledgeRecord("u", SPACE, np.zeros(3, np.float32), 0, 1).pack()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 2)])
def test_zeros_and_no_rows_survive(dtype: Dtype, shape: tuple[int, int]) -> None:
    packed = KnowledgeRecord("u", SPACE, np.zeros(shape, np.float32), 0, 1).pack(dtype)
    np.testing.assert_array_equal(KnowledgeRecord.unpack(packed, "u", SPACE).vectors, np.zeros(shape, np.float32))


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1e-31])
def test_int8_survives_vectors_that_are_almost_zero(tiny: float) -> None:
    vectors = np.array([[tiny, -tiny]], np.float32)
    unpacked = KnowledgeRecord.unpack(KnowledgeRecord("u", SPACE, vectors, 0, 1).pack("int8"), "u", SPACE).vectors
    assert np.abs(unpacked - vectors).max() <= 1e-30


_matrices = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1000, 1000, width=32)
)


@settings(max_examples=60, deadline=None)
@given(
    owner=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    vectors=_matrices,
    written_at=st.integers(0, 2**40),
    life=st.integers(0, 2**32),
    codes=st.lists(st.integers(0, 65535), max_size=8),
)
def test_round_trip(owner: str, vectors: FloatArray, written_at: int, life: int, codes: list[int]) -> None:
    record = KnowledgeRecord(owner, SPACE, vectors, written_at, written_at + life, tuple(codes))
    half = KnowledgeRecord.unpack(record.pack(), owner, SPACE)
    np.testing.assert_array_equal(half.vectors, vectors.astype(np.float16).astype(np.float32))
    assert (half.written_at, half.expires_at, half.codes) == (written_at, written_at + life, tuple(codes))
    peak = float(np.abs(vectors).max())
    quarter = KnowledgeRecord.unpack(record.pack("int8"), owner, SPACE)
    assert np.abs(quarter.vectors - vectors).max() <= max(peak / 127 * 0.501, 1e-30)


def test_freshness_ends_at_the_expiry() -> None:
    assert KNOWLEDGE.is_fresh(KNOWLEDGE.expires_at - 0.001)
    assert not KNOWLEDGE.is_fresh(KNOWLEDGE.expires_at)


def test_space_fingerprints() -> None:
    assert ITEM_SPACE.fingerprint == "de549c5bfd982399"
    assert USER_SPACE.fingerprint == "9d52565878ae25d4"


def test_the_key_of_a_space_is_that_of_the_schemas_knowledge() -> None:
    assert [space.key for space in SPACES] == [spec.key for spec in SCHEMA.knowledge]
    assert USER_SPACE.key == "user/liber"


def test_a_space_reads_back_with_the_same_fingerprint() -> None:
    for space in (ITEM_SPACE, USER_SPACE):
        assert Space.model_validate_json(space.model_dump_json()).fingerprint == space.fingerprint


@pytest.mark.parametrize(
    "change",
    [{"name": "x"}, {"side": "user"}, {"rows": 2}, {"dim": 4}, {"dtype": "int8"}, {"components": {"llm": "m"}}],
)
def test_every_part_of_a_space_shapes_its_fingerprint(change: dict[str, object]) -> None:
    changed = Space.model_validate({**ITEM_SPACE.model_dump(), **change})
    assert changed.fingerprint != ITEM_SPACE.fingerprint


def test_the_order_of_components_does_not_shape_the_fingerprint() -> None:
    reordered = Space.model_validate({**ITEM_SPACE.model_dump(), "components": {"prompt": "p", "llm": "m"}})
    assert reordered.fingerprint == ITEM_SPACE.fingerprint


@pytest.mark.parametrize("change", [{"rows": 0}, {"dim": 0}, {"dtype": "float64"}, {"side": "context"}, {"extra": 1}])
def test_a_space_that_no_record_can_hold_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Space.model_validate({**ITEM_SPACE.model_dump(), **change})
