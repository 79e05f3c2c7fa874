"""Tombstones that jobs write and look at: beside services, after a fail-over, on a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.contract.forgetting import CHANGES, READ_CHANGES, REVISION, SALT, Tombstone, Tombstones
from models.redis_address import RedisAddress
from offline.publish.connection import Store, StoreError
from offline.publish.tombstones import (
    TOMBSTONES_FILE,
    TombstoneWatch,
    forgotten_users,
    stored_tombstones,
    synchronise,
    write_tombstones,
)
from tests.servers import Cluster

WHO, OTHER, THIRD = "frida-kahlo", "diego-rivera", "tina-modotti"


def forget(store: Store, *users: str, at: int = 5, opted_out: bool = False) -> None:
    write_tombstones(store, dict.fromkeys(users, Tombstone(forgotten_ms=at, opted_out=opted_out)))


def test_a_watch_sees_the_other_one_of_two_histories_that_are_as_long(store: Store, tmp_path: Path) -> None:
    forget(store, THIRD)
    state: Any = store.redis.dump(store.keys.tombstones)
    forget(store, WHO)
    watch = TombstoneWatch(store, tmp_path)
    assert watch.look([WHO, OTHER]) == []
    store.redis.restore(store.keys.tombstones, 0, state, replace=True)
    forget(store, OTHER)
    assert watch.look([WHO, OTHER]) == [1]


def test_a_later_tombstone_that_a_service_wrote_meanwhile_stays(store: Store) -> None:
    forget(store, WHO, at=7)
    forget(store, OTHER, at=5, opted_out=True)
    before = stored_tombstones(store)
    forget(store, WHO, OTHER, at=5)
    assert stored_tombstones(store) == before
    forget(store, WHO, OTHER, at=8)
    assert stored_tombstones(store).among([WHO, OTHER]) == dict.fromkeys([WHO, OTHER], Tombstone(forgotten_ms=8))


def test_tombstones_without_a_salt_are_not_taken_for_those_of_nobody(store: Store, tmp_path: Path) -> None:
    forget(store, WHO)
    store.redis.hset(store.keys.tombstones, SALT, "")
    with pytest.raises(StoreError, match="put back a copy"):
        synchronise(store, tmp_path)


@pytest.mark.parametrize("gone", [(SALT,), (REVISION,), (SALT, REVISION)])
def test_a_salt_or_a_revision_that_is_gone_is_put_back_by_who_knows_it(
    store: Store, tmp_path: Path, gone: tuple[str, ...]
) -> None:
    forget(store, WHO, opted_out=True)
    synchronise(store, tmp_path / "knowing")
    before = stored_tombstones(store)
    store.redis.hdel(store.keys.tombstones, *gone)
    for read in (forgotten_users, synchronise):
        with pytest.raises(StoreError, match="gone: put back a copy"):
            read(store, tmp_path / "other")
    assert not store.redis.hexists(store.keys.tombstones, gone[0])
    assert synchronise(store, tmp_path / "knowing").opted_out(WHO)
    after = stored_tombstones(store)
    assert (after.salt, after.of_digests) == (before.salt, before.of_digests)
    assert (after.revision == before.revision) == (REVISION not in gone)


@pytest.mark.parametrize("part", [slice(30), slice(0), "upper", "twice", b"\xff"])
@pytest.mark.parametrize("knows", [False, True])
def test_a_salt_that_is_damaged_ends_the_job_before_it_changes_anything(
    store: Store, tmp_path: Path, part: Any, knows: bool
) -> None:
    """Also into other hexadecimal digits. Once it is removed, as the words say, a job that knows it puts it back."""
    forget(store, WHO, opted_out=True)
    if knows:
        synchronise(store, tmp_path)
    key, before = store.keys.tombstones, stored_tombstones(store)
    salt = before.salt
    damaged: Any = (
        salt[part] if isinstance(part, slice) else {"upper": "AB" * 16, "twice": 2 * salt}.get(part) or part
    )  # fmt: skip
    store.redis.hset(key, SALT, damaged)
    state: Any = store.redis.hgetall(key)
    for read in (forgotten_users, synchronise):
        with pytest.raises(StoreError, match="put back a copy"):
            read(store, tmp_path)
    assert store.redis.hgetall(key) == state
    store.redis.hdel(key, SALT)
    if knows:
        assert synchronise(store, tmp_path).opted_out(WHO)
        assert stored_tombstones(store) == before


def test_a_hash_of_another_type_ends_the_job_with_what_to_do(store: Store, tmp_path: Path) -> None:
    forget(store, WHO, opted_out=True)
    synchronise(store, tmp_path)
    key = store.keys.tombstones
    store.redis.delete(key)
    store.redis.set(key, "x")
    for read in (forgotten_users, synchronise):
        with pytest.raises(StoreError, match=f"{key} is no hash but a string: put back a copy"):
            read(store, tmp_path)
    store.redis.delete(key)
    assert synchronise(store, tmp_path).opted_out(WHO)
    assert stored_tombstones(store).opted_out(WHO)


def test_a_redis_that_lost_them_all_gets_them_back(store: Store, tmp_path: Path) -> None:
    forget(store, *(f"user-{at}" for at in range(2500)))
    assert synchronise(store, tmp_path).counts == {"tombstones": 2500, "opted_out": 0, "waiting": 2500}
    before = stored_tombstones(store)
    store.redis.delete(store.keys.tombstones)
    synchronise(store, tmp_path)
    after = stored_tombstones(store)
    assert (after.salt, after.of_digests) == (before.salt, before.of_digests)
    assert after.revision != before.revision
    file = (tmp_path / TOMBSTONES_FILE).stat()
    synchronise(store, tmp_path)
    assert stored_tombstones(store).revision == after.revision  # nothing was written
    assert (tmp_path / TOMBSTONES_FILE).stat() == file
    forget(store, WHO)
    synchronise(store, tmp_path)
    assert forgotten_users(None, tmp_path).of(WHO) is not None


def test_a_hash_of_an_earlier_version_is_understood_and_goes_on(store: Store, tmp_path: Path) -> None:
    forget(store, WHO)
    store.redis.hdel(store.keys.tombstones, CHANGES)
    store.redis.hset(store.keys.tombstones, REVISION, 3)
    assert stored_tombstones(store).revision == 3
    watch = TombstoneWatch(store, tmp_path)
    forget(store, OTHER)
    assert watch.look([WHO, OTHER]) == [0, 1]
    assert forgotten_users(store, tmp_path).blocks(WHO)


def test_on_a_cluster(store: Store, shared_cluster: Cluster) -> None:
    with RedisAddress.parse(shared_cluster.url).connected() as client:
        clustered: Any = replace(store, redis=client)
        forget(clustered, WHO)
        former = stored_tombstones(clustered)
        forget(clustered, OTHER)
        cells: Any = clustered.redis.eval(READ_CHANGES, 1, store.keys.tombstones, str(former.revision))
        changes = zip(cells[::2], cells[1::2], strict=True)
        assert Tombstones.parse(changes, former) == stored_tombstones(clustered)
        client.delete(store.keys.tombstones)
