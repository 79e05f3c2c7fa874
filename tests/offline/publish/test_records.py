"""A publication's records in Redis: what is written, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.contract.events import EVENT_BYTES, Interaction, item_hash, unpack_history
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.profile import UserProfile
from models.contract.schema import RunningSpec
from offline.knowledge.vectors import as_record
from offline.publish.connection import Store
from offline.publish.features import REPLACE_IF_UNCHANGED, packed_histories, write_items
from offline.publish.knowledge import KnowledgeWriter, entries
from offline.publish.producer import spaces_of
from offline.publish.records import WriteCache
from offline.training.statistics import statistics_until
from tests.contract.item_record import ItemRecord
from tests.offline.codes import item_codes, user_codes
from tests.offline.publish.conftest import Release, bytes_written, content_of, read, workdir
from tests.synthetic import SCHEMA


def test_everything_that_is_published_reads_back(store: Store, trained: Release) -> None:
    published = trained.publish(store)
    data, keys = trained.data, store.keys
    statistics = statistics_until(SCHEMA, data.log, len(data.log))
    for at, name in enumerate(data.log.item_ids):
        record = ItemRecord.unpack(read(store, keys.item_features(name, published.release)), name, SCHEMA)
        assert record.categorical == tuple(SCHEMA.encode_item_fields(data.catalogue.items[name]))
        assert record.numeric == tuple(statistics[at].tolist())
        assert record.index in (0, at + 1)
    for at, name in enumerate(data.log.user_ids):
        profile = UserProfile.unpack(read(store, keys.user_profile(name)), name)
        assert profile.features == data.catalogue.users[name]
        events, refused = unpack_history(name, read(store, keys.user_history(name)))
        rows = data.log.by_user().of_user(at)
        assert (events["value"].tolist(), refused) == (data.log.value[rows].tolist(), 0)


def test_all_knowledge_that_is_published_reads_back(store: Store, trained: Release) -> None:
    trained.publish(store)
    data, keys = trained.data, store.keys
    for items in data.knowledge.items.values():
        for at, name in enumerate(data.log.item_ids):
            record = knowledge_at(store, keys.item_knowledge(name, items.space.fingerprint), name, items.space)
            np.testing.assert_array_equal(record.vectors[0], items.published[at].astype(np.float16))
            assert record.codes == item_codes(items, at)
    for users in data.knowledge.users.values():
        for at, name in enumerate(data.log.user_ids):
            record = knowledge_at(store, keys.user_knowledge(name, users.space.fingerprint), name, users.space)
            np.testing.assert_array_equal(record.vectors, users.of_user(at).astype(np.float16))
            assert record.codes == user_codes(users, at)
    assert len(data.knowledge.users["liber"].of_user(0)) == 3
    assert len(user_codes(data.knowledge.users["marc"], 0)) == 2
    assert len(item_codes(data.knowledge.items["marc"], 0)) == 2


def test_numbers_have_the_format_of_their_space(store: Store, trained: Release) -> None:
    users = trained.data.knowledge.users["liber"]
    space = Space.model_validate({**users.space.model_dump(), "dtype": "int8"})
    writer = KnowledgeWriter(store, space, 1000, WriteCache(store, workdir(store)))
    count = writer.write(entries(replace(users, space=space), trained.data.log.user_ids, range(3)), 3)
    assert count.size == sum(
        len(read(store, store.keys.user_knowledge(f"u{at}", space.fingerprint))) for at in range(3)
    )
    record = knowledge_at(store, store.keys.user_knowledge("u2", space.fingerprint), "u2", space)
    np.testing.assert_array_equal(record.vectors, as_record(users.of_user(2), space))


def test_items_of_another_schema_are_refused_before_any_is_written(store: Store, trained: Release) -> None:
    data = trained.data
    running = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=(1.0,))})
    numeric = statistics_until(SCHEMA, data.log, len(data.log))
    with pytest.raises(ValueError, match="items have 4 numeric features in this schema, not 3"):
        write_items(store, "r", running, data.catalogue, data.log.item_ids, range(len(data.log.item_ids)), numeric)
    assert store.redis.get(store.keys.item_features(data.log.item_ids[0], "r")) is None


def knowledge_at(store: Store, key: str, owner: str, space: Space) -> KnowledgeRecord:
    return KnowledgeRecord.unpack(read(store, key), owner, space.fingerprint)


def test_a_second_publication_writes_nothing(store: Store, trained: Release) -> None:
    first = trained.publish(store)
    assert first.switched
    assert all(count.written > 0 and count.unchanged == 0 for count in first.records.values())
    before = content_of(store)
    assert bytes_written(first) > sum(len(value) for key, value in before.items() if "}:" in key)
    second = trained.publish(store)
    assert {name: count.written for name, count in second.records.items()} == dict.fromkeys(second.records, 0)
    assert {name: count.unchanged for name, count in second.records.items()} == {
        name: count.written for name, count in first.records.items() if name != "item directory"
    }
    assert bytes_written(second) == 0
    assert (second.switched, second.live_before, second.pruned) == (False, first.release, [])
    assert content_of(store) == before


def changed_keys(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_only_the_user_whose_knowledge_changed_is_rewritten(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = content_of(store)
    users = trained.data.knowledge.users["liber"]
    vectors = users.vectors.copy()
    vectors[users.start[8] - 1] += 1.0  # the newest partition of user 7
    published = trained.with_users("liber", vectors=vectors).publish(store)
    key = store.keys.user_knowledge("u7", users.space.fingerprint)
    assert changed_keys(before, content_of(store)) == {key, store.keys.generation}
    assert (published.records["user/liber"].written, published.records["user/marc"].written) == (1, 0)
    assert bytes_written(published) == len(read(store, key))


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
    assert changed_keys(before, content_of(store)) == {store.keys.user_profile("u4"), store.keys.generation}


def test_only_the_users_that_are_asked_for_are_looked_at(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = content_of(store)
    data = trained.shifted("liber").shifted("marc").data
    catalogue = replace(data.catalogue, users={name: {"age": 99} for name in data.catalogue.users})
    published = trained.with_data(knowledge=data.knowledge, catalogue=catalogue).publish(store, users=[9, 4, 4])
    spaces = spaces_of(data.knowledge.spaces)
    assert {key for key in changed_keys(before, content_of(store)) if "{u:" in key} == {
        key
        for name in ("u4", "u9")
        for key in (
            store.keys.user_profile(name),
            store.keys.user_knowledge(name, spaces["user/liber"]),
            store.keys.user_knowledge(name, spaces["user/marc"]),
        )
    }
    counts = {name: (count.written, count.unchanged) for name, count in published.records.items()}
    assert counts["user profiles"] == counts["user/liber"] == counts["user/marc"] == (2, 0)
    assert counts["user histories"] == (0, 2)
    assert counts["item/marc"] == (40, 0)
    assert counts["item/text"] == counts["item features"] == (0, 40)
    assert trained.with_data(knowledge=data.knowledge).publish(store).records["user/liber"].written == 58


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


def test_early_events_of_a_short_live_history_do_not_become_its_newest(store: Store, trained: Release) -> None:
    """A history of which only the beginning was left, because Redis lost the rest, and one event of the service that
    the log leaves out, before the last one that it has."""
    key, rows = store.keys.user_history("u2"), trained.data.log.by_user().of_user(2)
    whole = packed_histories(
        trained.data.log,
        trained.data.log.by_user(),
        np.array([item_hash(item) for item in trained.data.log.item_ids], np.uint64),
        [2],
        len(rows),
    )[0]
    events = [whole[at : at + EVENT_BYTES] for at in range(0, len(whole), EVENT_BYTES)]
    unlogged = [Interaction(user_id="u2", item_id="i1", value=5, time_ms=10**12 + at).pack() for at in range(2)]
    store.redis.set(key, b"".join([events[0], events[1], unlogged[0], events[-1], unlogged[1]]))
    trained.with_gate(history_max_events=8).publish(store)
    assert read(store, key) == b"".join([*events[-6:-1], unlogged[0], events[-1], unlogged[1]])
    assert trained.with_gate(history_max_events=8).publish(store).records["user histories"].written == 0


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
    assert not store.redis.eval(REPLACE_IF_UNCHANGED, 1, key, second, b"lost")
    assert read(store, key) == first
    assert store.redis.eval(REPLACE_IF_UNCHANGED, 1, key, first, second)
    assert read(store, key) == second


def test_long_histories_are_cut(store: Store, trained: Release) -> None:
    trained.with_gate(history_max_events=4).publish(store)
    events, _ = unpack_history("u1", read(store, store.keys.user_history("u1")))
    rows = trained.data.log.by_user().of_user(1)
    assert events["time_ms"].tolist() == trained.data.log.time_ms[rows[-4:]].tolist()


def test_histories_are_cut_and_completed_when_their_length_is_changed(store: Store, trained: Release) -> None:
    """What the log does not know yet stays at the end, as it came."""
    trained.publish(store)
    key, rows = store.keys.user_history("u1"), trained.data.log.by_user().of_user(1)
    store.redis.append(key, Interaction(user_id="u1", item_id="i1", value=5, time_ms=10**12).pack())
    times = [*trained.data.log.time_ms[rows].tolist(), 10**12]
    for most, kept_back in ((4, times[-4:]), (6, [*times[-7:-1], 10**12][-6:])):
        trained.with_gate(history_max_events=most).publish(store)
        events, _ = unpack_history("u1", read(store, key))
        assert events["time_ms"].tolist() == kept_back
