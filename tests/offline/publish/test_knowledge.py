"""Knowledge records: what is written, when an expiry is renewed, and what a held record keeps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.packing import KNOWLEDGE
from offline.knowledge.vectors import UserVectors
from offline.publish.connection import Store
from offline.publish.knowledge import GRACE_SECONDS, Entries, KnowledgeWriter, content_digest, entries, restamped, times
from offline.publish.records import RecordDigests, WriteCache, Written
from tests.offline.publish.conftest import read

Side = Literal["user", "item"]

VECTORS = np.arange(6, dtype=np.float32).reshape(2, 3)


def space_of(side: Side = "user", dtype: Literal["float16", "int8"] = "float16") -> Space:
    return Space(name="test", side=side, rows=2, dim=3, dtype=dtype, components={})


SPACE = space_of().fingerprint


@pytest.fixture
def write_cache(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteCache:
    """A write cache that knows no record, so that every one is read."""
    monkeypatch.setattr(RecordDigests, "holds", lambda _, numbers, *__: np.zeros(len(numbers), np.bool_))
    return WriteCache(store, tmp_path / "memo")


def write(
    store: Store,
    write_cache: WriteCache,
    vectors: FloatArray,
    ttl: int,
    *,
    space: Space | None = None,
    codes: tuple[int, ...] = (),
) -> Written:
    """The record of the owner "o"."""
    entry = Entries(np.array([0]), ["o"], np.array([len(vectors)]), vectors, np.array([codes], np.uint16))
    return KnowledgeWriter(store, space or space_of(), ttl, write_cache).write([entry], 1)


def hold(store: Store, *, expires_in: float, ttl: int, space: Space | None = None) -> bytes:
    """A record as an earlier publication left it: ``expires_in`` of its life still to come."""
    now, space = int(time.time()), space or space_of()
    record = KnowledgeRecord("o", space.fingerprint, VECTORS, now - ttl, now + round(ttl * expires_in), (7, 65535))
    blob = record.pack(space.dtype)
    store.redis.set(store.keys.user_knowledge("o", space.fingerprint), blob)
    return blob


@pytest.mark.parametrize(
    ("expires_in", "renewed"), [(1.0, False), (0.75, False), (0.25, True), (0.01, True), (-1.0, True)]
)
def test_an_expiry_is_renewed_once_less_than_half_of_life_is_left(
    store: Store, write_cache: WriteCache, expires_in: float, renewed: bool
) -> None:
    ttl = 1_000_000
    old = hold(store, expires_in=expires_in, ttl=ttl)
    count = write(store, write_cache, VECTORS, ttl, codes=(7, 65535))
    assert (count.written, count.unchanged) == ((1, 0) if renewed else (0, 1))
    new = read(store, store.keys.user_knowledge("o", SPACE))
    assert (new != old) is renewed
    if renewed:
        before, after = (KnowledgeRecord.unpack(packed, "o", SPACE) for packed in (old, new))
        assert after.expires_at > before.expires_at
        assert after.codes == before.codes
        np.testing.assert_array_equal(after.vectors, before.vectors)
        assert count.size == len(new)


def test_changed_vectors_or_codes_are_written_however_young(store: Store, write_cache: WriteCache) -> None:
    hold(store, expires_in=1.0, ttl=1000)
    assert write(store, write_cache, VECTORS + 1, 1000, codes=(7, 65535)).written == 1
    assert write(store, write_cache, VECTORS[:1], 1000, codes=(7, 65535)).written == 1
    assert write(store, write_cache, VECTORS[:1], 1000, codes=(8, 65535)).written == 1
    assert write(store, write_cache, VECTORS[:1], 1000, codes=(8, 65535)).unchanged == 1


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\0" * 100])
def test_a_damaged_record_is_replaced(store: Store, write_cache: WriteCache, damage: bytes) -> None:
    space = space_of("item")
    key = store.keys.item_knowledge("o", space.fingerprint)
    store.redis.set(key, damage)
    assert write(store, write_cache, VECTORS[:1], 1000, space=space).written == 1
    assert KnowledgeRecord.unpack(read(store, key), "o", space.fingerprint).vectors.shape == (1, 3)


def test_a_record_whose_check_sum_alone_is_damaged_is_replaced(store: Store, write_cache: WriteCache) -> None:
    write(store, write_cache, VECTORS, 1000)
    key = store.keys.user_knowledge("o", SPACE)
    store.redis.setrange(key, len(read(store, key)) - 1, b"\0")
    assert write(store, write_cache, VECTORS, 1000).written == 1


def test_a_record_outlives_its_expiry_as_stale_and_then_goes(store: Store, write_cache: WriteCache) -> None:
    write(store, write_cache, VECTORS, 1000)
    key = store.keys.user_knowledge("o", SPACE)
    record = KnowledgeRecord.unpack(read(store, key), "o", SPACE)
    assert store.redis.expiretime(key) == record.expires_at + GRACE_SECONDS


def test_int8_records_are_unchanged_too(store: Store, write_cache: WriteCache) -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    space = space_of(dtype="int8")
    assert write(store, write_cache, vectors, 1000, space=space).written == 1
    assert write(store, write_cache, vectors, 1000, space=space).unchanged == 1


def test_thousands_of_records(store: Store, write_cache: WriteCache) -> None:
    users = UserVectors(
        space_of(),
        np.concatenate([VECTORS + at % 7 for at in range(2500)]),
        np.arange(0, 5001, 2),
        np.tile(np.arange(2), 2500),
    )
    names = [f"u{at}" for at in range(2500)]
    first, second = (
        KnowledgeWriter(store, space_of(), 1000, write_cache).write(entries(users, names, range(2500)), 2500)
        for _ in range(2)
    )
    assert first.written == 2500
    assert second.unchanged == 2500


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_times_leave_the_rest_of_a_record_as_it_is(dtype: Literal["float16", "int8"]) -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    record = KnowledgeRecord("zoë", SPACE, vectors, 5, 6, (1, 65535))
    blob = record.pack(dtype)
    later = restamped(blob, 7, 2**40)
    before, after = (KnowledgeRecord.unpack(packed, "zoë", SPACE) for packed in (blob, later))
    assert (after.written_at, after.expires_at, after.codes) == (7, 2**40, before.codes)
    assert times(later) == (7, 2**40)
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert KNOWLEDGE.content(later) == KNOWLEDGE.content(blob)
    assert content_digest(later) == content_digest(blob)
    assert restamped(later, 5, 6) == blob


@pytest.mark.parametrize("is_held_back", [False, True])
def test_a_shortened_life_shortens_the_records_that_are_there(
    store: Store, write_cache: WriteCache, is_held_back: bool
) -> None:
    ttl = 1_000_000
    old = hold(store, expires_in=3.0, ttl=ttl)
    if is_held_back:
        KnowledgeWriter(store, space_of(), ttl, write_cache).renew(["o"])
    else:
        write(store, write_cache, VECTORS, ttl, codes=(7, 65535))
    new = read(store, store.keys.user_knowledge("o", SPACE))
    assert KNOWLEDGE.content(new) == KNOWLEDGE.content(old)
    assert times(new)[1] <= time.time() + ttl < times(old)[1]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize(("expires_in", "renewed"), [(0.75, False), (0.25, True), (-1.0, True)])
def test_a_held_record_lives_on_as_it_is(
    store: Store, write_cache: WriteCache, expires_in: float, renewed: bool, dtype: Literal["float16", "int8"]
) -> None:
    ttl, space = 1_000_000, space_of(dtype=dtype)
    old = hold(store, expires_in=expires_in, ttl=ttl, space=space)
    count = KnowledgeWriter(store, space, ttl, write_cache).renew(["nobody", "o"])
    assert (count.written, count.unchanged) == ((1, 0) if renewed else (0, 1))
    key = store.keys.user_knowledge("o", space.fingerprint)
    new = read(store, key)
    assert KNOWLEDGE.content(new) == KNOWLEDGE.content(old)
    assert times(new)[1] >= time.time() + ttl * 0.7
    if renewed:
        assert store.redis.expiretime(key) == times(new)[1] + GRACE_SECONDS
        assert count.size == len(new)
