"""A publication after one user in a hundred changed: which keys it writes, and that it reads no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.knowledge import Space
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.vectors import UserVectors
from offline.publish import records
from offline.publish.connection import Store
from offline.publish.features import write_histories, write_profiles
from offline.publish.knowledge import KnowledgeWriter, entries, owners
from offline.publish.records import WriteCache, Written
from offline.publish.undo import JOURNAL_FILE, Journal
from tests.offline.publish.conftest import content_of

USERS, EVERY = 600, 100
NAMES = tuple(f"u{at}" for at in range(USERS))
CHANGED = NAMES[::EVERY]
SPACE = Space(name="test", side="user", rows=2, dim=3, components={})

pytestmark = pytest.mark.own_valkey  # for its counters


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_CHUNK", 64)


def touched(store: Store, act: Callable[[], Written]) -> tuple[set[str], int, int]:
    """(keys whose values changed, how many keys the server was told to set, how many it was asked for)."""
    before, early = content_of(store), counters(store)
    act()
    late = counters(store)
    after = content_of(store)
    changed = {key for key in after if after[key] != before.get(key)}
    return changed, late[0] - early[0], late[1] - early[1]


def counters(store: Store) -> tuple[int, int]:
    info: Any = store.redis.info("everything")
    sets = info.get("cmdstat_set", {"calls": 0})["calls"]
    return sets, info["keyspace_hits"] + info["keyspace_misses"]


def test_of_knowledge_the_changed_users_keys_alone(store: Store, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(2 * USERS, 3)).astype(np.float32)
    users = UserVectors(SPACE, vectors, np.arange(0, 2 * USERS + 1, 2), np.tile(np.arange(2), USERS))

    def write(users: UserVectors) -> Written:
        write_cache = WriteCache(store, tmp_path / "memo")
        with Journal(tmp_path / JOURNAL_FILE) as journal:
            undo = journal.publication(store, "test", {"user/test": SPACE.fingerprint})
            writer = KnowledgeWriter(store, SPACE, 1000, write_cache)
            written = writer.write(entries(users, NAMES, owners(users, NAMES)), USERS, undo)
            undo.close()
        write_cache.save()
        return written

    assert write(users) == Written(USERS, 0, written_bytes(store))
    changed = vectors.copy()
    changed[2 * EVERY * np.arange(len(CHANGED)) + 1] += 1
    keys, sets, reads = touched(store, lambda: write(replace(users, vectors=changed)))
    assert keys == {store.keys.user_knowledge(name, SPACE.fingerprint) for name in CHANGED} | {store.keys.generation}
    # Beside the records: the generation is read and set, and so is the installation's name, which stays as it was.
    assert (sets, reads) == (len(CHANGED) + 2, len(CHANGED) + 2)


def written_bytes(store: Store) -> int:
    return sum(len(value) for key, value in content_of(store).items() if ":k:" in key)


def test_of_profiles_and_histories_the_changed_users_keys_alone(store: Store, tmp_path: Path) -> None:
    catalogue = Catalogue(users={name: {"age": 30} for name in NAMES}, items={})
    log = InteractionLog.sorted_by_time([(name, "i", 1.0, 5) for name in NAMES], NAMES, ["i"])
    others = Catalogue(users={**catalogue.users, **{name: {"age": 31} for name in CHANGED}}, items={})
    grown = log.with_rows([(name, "j", 2.0, 9) for name in CHANGED], NAMES, ["i", "j"])[0]

    def write(act: Callable[[WriteCache], Written]) -> Written:
        write_cache = WriteCache(store, tmp_path / "memo")
        written = act(write_cache)
        write_cache.save()
        return written

    for write_cache_of in (
        lambda write_cache: write_profiles(store, catalogue, log, write_cache),
        lambda write_cache: write_histories(store, log, 9, write_cache),
    ):
        assert write(write_cache_of).written == USERS
    keys, sets, reads = touched(
        store, lambda: write(lambda write_cache: write_profiles(store, others, log, write_cache))
    )
    assert keys == {store.keys.user_profile(name) for name in CHANGED} | {store.keys.generation}
    assert (sets, reads) == (len(CHANGED) + 1, len(CHANGED) + 1)
    keys, sets, reads = touched(store, lambda: write(lambda write_cache: write_histories(store, grown, 9, write_cache)))
    assert keys == {store.keys.user_history(name) for name in CHANGED} | {store.keys.generation}
    # A history is measured, tried as a new one, read, compared, and replaced while it is what was read.
    assert (sets, reads) == (2 * len(CHANGED) + 1, 3 * len(CHANGED) + 1)
