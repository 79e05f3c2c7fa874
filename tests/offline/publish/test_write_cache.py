"""The write cache: what an idle publication need not read, and when it is not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from offline.publish.connection import Store
from offline.publish.records import WRITE_CACHE_FOLDER, WriteCache, record_digest
from tests.offline.publish.conftest import Release, commands_of, content_of, killed_at, roll_back, sibling, workdir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memo"


def remember(store: Store, folder: Path, number: int = 3, content: int = 7, until: int = 100) -> None:
    write_cache = WriteCache(store, folder)
    write_cache.about_to_write()
    write_cache.of("user/liber", 10).note(number, content, until)
    write_cache.save()


def knows(store: Store, folder: Path, number: int = 3, content: int = 7, until: int = 100) -> bool:
    return bool(WriteCache(store, folder).of("user/liber", 10).holds(number, content, until))


def test_what_was_noted_is_known_next_time(store: Store, folder: Path) -> None:
    remember(store, folder)
    assert knows(store, folder)
    assert knows(store, folder, until=99)
    assert not knows(store, folder, until=101)
    assert not knows(store, folder, content=8)
    assert not knows(store, folder, number=4)
    assert not WriteCache(store, folder).of("user/marc", 10).holds(3, 7)


def test_a_record_that_outlives_what_is_asked_is_not_known(store: Store, folder: Path) -> None:
    remember(store, folder, until=100)
    digests = WriteCache(store, folder).of("user/liber", 10)
    assert digests.holds(3, 7, 50, 100)
    assert not digests.holds(3, 7, 50, 99)


def test_nothing_is_known_of_a_store_that_was_wiped_set_back_or_written_by_others(store: Store, folder: Path) -> None:
    remember(store, folder)
    snapshot = store.redis.get(store.keys.generation)
    assert isinstance(snapshot, bytes)
    remember(store, folder, content=8)
    store.redis.set(store.keys.generation, snapshot)
    assert not knows(store, folder, content=8)
    remember(store, folder)
    store.redis.delete(store.keys.generation)
    assert not knows(store, folder)
    remember(store, folder)
    remember(store, folder.with_name("another"))
    assert not knows(store, folder)
    assert not knows(sibling(store, "other"), folder)


def test_what_was_not_saved_is_not_known(store: Store, folder: Path) -> None:
    remember(store, folder)
    write_cache = WriteCache(store, folder)
    write_cache.about_to_write()
    write_cache.of("user/liber", 10).note(3, 8)
    assert store.redis.get(store.keys.generation) is None
    for content in (7, 8):
        assert not knows(store, folder, content=content)


def test_of_a_memo_that_does_not_count_no_table_is_believed_later(store: Store, folder: Path) -> None:
    remember(store, folder)
    store.redis.delete(store.keys.generation)
    write_cache = WriteCache(store, folder)
    write_cache.about_to_write()
    write_cache.of("user profiles", 10)
    write_cache.save()
    assert not knows(store, folder)


def test_reading_alone_leaves_redis_alone(store: Store, folder: Path) -> None:
    remember(store, folder)
    before = content_of(store)
    write_cache = WriteCache(store, folder)
    write_cache.of("user/liber", 10).note(5, 9, 100)
    write_cache.save()
    assert content_of(store) == before
    assert knows(store, folder)
    assert knows(store, folder, number=5, content=9)


def test_tables_grow(store: Store, folder: Path) -> None:
    remember(store, folder)
    write_cache = WriteCache(store, folder)
    write_cache.of("user/liber", 5000).note(4999, 1)
    write_cache.save()
    assert knows(store, folder)
    assert WriteCache(store, folder).of("user/liber", 5000).holds(4999, 1)


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_table_knows_nothing(store: Store, folder: Path, damage: bytes) -> None:
    remember(store, folder)
    (table,) = folder.glob("*.npy")
    table.write_bytes(damage)
    assert not knows(store, folder)
    remember(store, folder)
    assert knows(store, folder)


def test_a_table_of_another_form_knows_nothing(store: Store, folder: Path) -> None:
    remember(store, folder)
    (table,) = folder.glob("*.npy")
    np.save(table, np.ones(20))
    assert not knows(store, folder)


def test_digests_tell_parts_apart_and_are_never_nothing() -> None:
    assert record_digest(b"a", b"bc") != record_digest(b"ab", b"c") != record_digest(b"abc")
    assert 0 < record_digest(b"") < 2**64


def test_an_idle_publication_reads_no_user_and_no_knowledge(store: Store, trained: Release) -> None:
    trained.publish(store)
    idle = commands_of(lambda: trained.publish(store))
    verifying = commands_of(lambda: trained.publish(store, verify=True))
    # Profiles, histories, and four spaces, a chunk of each; and the generation that is taken away and set again.
    assert verifying - idle == 6 + 2
    published = trained.publish(store)
    assert {count.unchanged for name, count in published.records.items() if "item" not in name} == {60}


def test_whatever_is_lost_with_the_memo_comes_back(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = content_of(store)
    lost = [key for key in before if "}:" in key]
    store.redis.delete(*lost, store.keys.generation)
    trained.publish(store)
    assert set(content_of(store)) >= set(before)
    assert (
        WriteCache(store, workdir(store) / WRITE_CACHE_FOLDER)
        .of("user profiles", 60)
        .holds(5, record_digest(before[store.keys.user_profile("u5")]))
    )


def test_a_longer_history_is_written_whatever_is_remembered(store: Store, trained: Release) -> None:
    trained.publish(store)
    log, _ = trained.data.log.extended([Interaction(user_id="u2", item_id="i1", value=5, time_ms=10**10)], "9-0")
    grown = trained.with_data(log=log)
    assert grown.publish(store).records["user histories"].written == 1
    assert grown.publish(store).records["user histories"].written == 0


def test_after_a_kill_or_a_rollback_every_record_is_read(store: Store, trained: Release) -> None:
    trained.publish(store)
    with killed_at(20), pytest.raises(KeyboardInterrupt):
        trained.shifted("liber").shifted("marc").shifted("text").publish(store)
    assert (
        not (workdir(store) / WRITE_CACHE_FOLDER / "stamp").exists() or store.redis.get(store.keys.generation) is None
    )
    trained.publish(store)
    trained.shifted("liber").publish(store)
    roll_back(store, "liber")
    assert store.redis.get(store.keys.generation) is None
    assert trained.publish(store, return_to=True).records["user/liber"].unchanged == 60
