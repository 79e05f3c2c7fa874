"""Records in Redis: what is written, what is left alone, and when an expiry is renewed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.contract.events import Interaction, unpack_history
from models.contract.items import ItemRecord
from models.contract.knowledge import KnowledgeRecord
from models.contract.profile import UserProfile
from offline.publish.connection import Store
from offline.publish.records import write_knowledge
from offline.publish.users import _REPLACE_IF_UNCHANGED
from offline.training.samples import statistics_until
from tests.offline.publish.conftest import Release, content_of
from tests.synthetic import SCHEMA

SPACE = "0123456789abcdef"
VECTORS = np.arange(6, dtype=np.float32).reshape(2, 3)


def read(store: Store, key: str) -> bytes:
    held: Any = store.redis.get(key)
    assert isinstance(held, bytes), key
    return held


def test_everything_that_is_published_reads_back(store: Store, trained: Release) -> None:
    published = trained.publish(store)
    data, keys = trained.data, store.keys
    statistics = statistics_until(SCHEMA, data.log, len(data.log))
    spaces = {side: space.fingerprint for side, space in data.knowledge.spaces.items()}
    for at, name in enumerate(data.log.item_ids):
        record = ItemRecord.unpack(read(store, keys.item_features(name, published.release)), name, SCHEMA)
        assert record.categorical == tuple(SCHEMA.encode_item_fields(data.catalogue.items[name]))
        assert record.numeric == tuple(statistics[at].tolist())
        assert record.index in (0, at + 1)
        vectors = KnowledgeRecord.unpack(read(store, keys.item_knowledge(name, spaces["item"])), name, spaces["item"])
        np.testing.assert_array_equal(vectors.vectors[0], data.knowledge.items[at].astype(np.float16))
    for at, name in enumerate(data.log.user_ids):
        profile = UserProfile.unpack(read(store, keys.user_profile(name)), name)
        assert profile.features == data.catalogue.users[name]
        events, refused = unpack_history(name, read(store, keys.user_history(name)))
        rows = data.log.by_user().of_user(at)
        assert (events["value"].tolist(), refused) == (data.log.value[rows].tolist(), 0)
        known = KnowledgeRecord.unpack(read(store, keys.user_knowledge(name, spaces["user"])), name, spaces["user"])
        np.testing.assert_array_equal(known.vectors, data.knowledge.of_user(at)[-3:].astype(np.float16))


def test_a_second_publication_writes_nothing(store: Store, trained: Release) -> None:
    first = trained.publish(store)
    assert first.switched
    assert all(count.written > 0 and count.unchanged == 0 for count in first.records.values())
    before = content_of(store)
    second = trained.publish(store)
    assert {name: count.written for name, count in second.records.items()} == dict.fromkeys(second.records, 0)
    assert {name: count.unchanged for name, count in second.records.items()} == {
        name: count.written for name, count in first.records.items()
    }
    assert (second.switched, second.live_before, second.pruned) == (False, first.release, [])
    assert content_of(store) == before


def changed_keys(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_only_the_user_whose_knowledge_changed_is_rewritten(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = content_of(store)
    knowledge = trained.data.knowledge
    partitions = knowledge.partitions.copy()
    partitions[knowledge.partition_start[8] - 1] += 1.0  # the newest partition of user 7
    published = trained.with_data(knowledge=replace(knowledge, partitions=partitions)).publish(store)
    key = store.keys.user_knowledge("u7", knowledge.spaces["user"].fingerprint)
    assert changed_keys(before, content_of(store)) == {key}
    assert published.records["user knowledge"].written == 1


def test_only_the_item_whose_fields_changed_is_rewritten_and_announced(store: Store, trained: Release) -> None:
    published = trained.publish(store)
    before = content_of(store)
    items = dict(trained.data.catalogue.items)
    items["i3"] = {**items["i3"], "year": 1901 if items["i3"]["year"] > 1980 else 2020}
    trained.with_data(catalogue=replace(trained.data.catalogue, items=items)).publish(store)
    assert changed_keys(before, content_of(store)) == {
        store.keys.item_features("i3", published.release),
        store.keys.release_revision(published.release),
    }


def test_only_the_profile_that_changed_is_rewritten(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = content_of(store)
    users = {**trained.data.catalogue.users, "u4": {"age": 99, "occupation": "farmer"}}
    trained.with_data(catalogue=replace(trained.data.catalogue, users=users)).publish(store)
    assert changed_keys(before, content_of(store)) == {store.keys.user_profile("u4")}


def test_feedback_that_came_before_the_first_publication_stays_at_the_end(store: Store, trained: Release) -> None:
    appended = Interaction(user_id="u2", item_id="i1", value=5, time_ms=10**12).pack()
    store.redis.set(store.keys.user_history("u2"), appended)
    published = trained.publish(store)
    assert published.records["user histories"].unchanged == 0
    events, refused = unpack_history("u2", read(store, store.keys.user_history("u2")))
    assert refused == 0
    rows = trained.data.log.by_user().of_user(2)
    assert events["time_ms"].tolist() == [*trained.data.log.time_ms[rows].tolist(), 10**12]
    assert trained.publish(store).records["user histories"].written == 0


def test_a_live_history_that_lacks_nothing_is_left_alone(store: Store, trained: Release) -> None:
    trained.publish(store)
    store.redis.append(
        store.keys.user_history("u3"), Interaction(user_id="u3", item_id="i1", value=5, time_ms=10**12).pack()
    )
    longer = read(store, store.keys.user_history("u3"))
    assert trained.publish(store).records["user histories"].written == 0
    assert read(store, store.keys.user_history("u3")) == longer


def test_a_history_that_changes_meanwhile_is_not_replaced(store: Store, trained: Release) -> None:
    key = store.keys.user_history("u2")
    first, second = (Interaction(user_id="u2", item_id="i1", value=5, time_ms=10**12 + at).pack() for at in range(2))
    store.redis.set(key, first)
    assert not store.redis.eval(_REPLACE_IF_UNCHANGED, 1, key, second, b"lost")
    assert read(store, key) == first
    assert store.redis.eval(_REPLACE_IF_UNCHANGED, 1, key, first, second)
    assert read(store, key) == second


def test_long_histories_are_cut(store: Store, trained: Release) -> None:
    trained.with_gate(history_max_events=4).publish(store)
    events, _ = unpack_history("u1", read(store, store.keys.user_history("u1")))
    rows = trained.data.log.by_user().of_user(1)
    assert events["time_ms"].tolist() == trained.data.log.time_ms[rows[-4:]].tolist()


def hold(store: Store, *, vectors: np.ndarray, expires_in: float, ttl: int) -> bytes:
    """A record as an earlier publication left it: ``expires_in`` of its life still to come."""
    now = int(store.redis.time()[0])
    blob = KnowledgeRecord("u", SPACE, vectors, now - ttl, now + round(ttl * expires_in)).pack()
    store.redis.set(store.keys.user_knowledge("u", SPACE), blob)
    return blob


@pytest.mark.parametrize(
    ("expires_in", "renewed"), [(1.0, False), (0.75, False), (0.25, True), (0.01, True), (-1.0, True)]
)
def test_an_expiry_is_renewed_once_less_than_half_of_life_is_left(
    store: Store, expires_in: float, renewed: bool
) -> None:
    ttl = 1_000_000
    old = hold(store, vectors=VECTORS, expires_in=expires_in, ttl=ttl)
    count = write_knowledge(store, "user", SPACE, [("u", VECTORS)], "float16", ttl)
    assert (count.written, count.unchanged) == ((1, 0) if renewed else (0, 1))
    new = read(store, store.keys.user_knowledge("u", SPACE))
    assert (new != old) is renewed
    if renewed:
        before, after = (KnowledgeRecord.unpack(one, "u", SPACE) for one in (old, new))
        assert after.expires_at > before.expires_at
        np.testing.assert_array_equal(after.vectors, before.vectors)
        assert count.size == len(new)


def test_changed_vectors_are_written_however_young(store: Store) -> None:
    hold(store, vectors=VECTORS, expires_in=1.0, ttl=1000)
    assert write_knowledge(store, "user", SPACE, [("u", VECTORS + 1)], "float16", 1000).written == 1
    assert write_knowledge(store, "user", SPACE, [("u", VECTORS[:1])], "float16", 1000).written == 1


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\0" * 100])
def test_a_damaged_record_is_replaced(store: Store, damage: bytes) -> None:
    key = store.keys.item_knowledge("i", SPACE)
    store.redis.set(key, damage)
    assert write_knowledge(store, "item", SPACE, [("i", VECTORS[:1])], "float16", 1000).written == 1
    assert KnowledgeRecord.unpack(read(store, key), "i", SPACE).vectors.shape == (1, 3)


def test_a_record_outlives_its_expiry_as_stale_and_then_goes(store: Store) -> None:
    write_knowledge(store, "user", SPACE, [("u", VECTORS)], "float16", 1000)
    key = store.keys.user_knowledge("u", SPACE)
    record = KnowledgeRecord.unpack(read(store, key), "u", SPACE)
    assert store.redis.expiretime(key) == record.expires_at + 7 * 86_400


def test_int8_records_are_unchanged_too(store: Store) -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    assert write_knowledge(store, "user", SPACE, [("u", vectors)], "int8", 1000).written == 1
    assert write_knowledge(store, "user", SPACE, [("u", vectors)], "int8", 1000).unchanged == 1


def test_thousands_of_records(store: Store) -> None:
    entries = [(f"u{at}", VECTORS + at % 7) for at in range(2500)]
    assert write_knowledge(store, "user", SPACE, entries, "float16", 1000).written == 2500
    assert write_knowledge(store, "user", SPACE, entries, "float16", 1000).unchanged == 2500
