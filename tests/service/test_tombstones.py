"""A worker's copy of the tombstones is what Redis holds, whoever wrote it, and costs no more than what changed."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
import redis

from models.contract.forgetting import (
    CHANGES,
    CHANGES_AT_MOST,
    NOT_UNDERSTOOD,
    REVISION,
    SALT,
    Tombstone,
    Tombstones,
    TombstoneTable,
    new_salt,
    user_digest,
)
from models.contract.keys import Keys
from service.errors import RedisUnavailable
from service.forgetting.tombstones import KnownTombstones
from service.ranking.deadline import Deadline
from service.redis import RedisLink

WHO, OTHER, THIRD = "frida-kahlo", "diego-rivera", "tina-modotti"


class Replica:
    """The hash of tombstones as a replica has it that misses what is written from now on."""

    def __init__(self, store: redis.Redis, keys: Keys) -> None:
        self._store, self._key = store, keys.tombstones
        self._state: Any = store.dump(self._key)

    def takes_over(self) -> None:
        self._store.delete(self._key)
        if self._state is not None:
            self._store.restore(self._key, 0, self._state)


def stored(store: redis.Redis, keys: Keys) -> Tombstones:
    fields: Any = store.hgetall(keys.tombstones)
    return Tombstones.parse(fields.items())


@pytest.fixture
def counted(link: RedisLink, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the commands that go over ``link``."""
    names: list[str] = []
    whole = link.round_trip

    async def round_trip(commands: Any, deadline: Deadline, may_be_stale: bool = False) -> list[Any]:
        names.extend(command[0] for command in commands)
        return await whole(commands, deadline, may_be_stale)

    monkeypatch.setattr(link, "round_trip", round_trip)
    return names


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each tombstone that is parsed: whether the event loop's thread did it."""
    loop, parses, whole = threading.get_ident(), [], Tombstone.model_validate_json

    def parsed(document: Any) -> Tombstone:
        parses.append(threading.get_ident() == loop)
        return whole(document)

    monkeypatch.setattr(Tombstone, "model_validate_json", parsed)
    return parses


def many(store: redis.Redis, keys: Keys, number: int) -> None:
    """Tombstones of invented users, as an earlier version left them."""
    salt = new_salt()
    document = Tombstone(forgotten_ms=1).model_dump_json()
    fields: Any = {user_digest(salt, f"invented-{at}"): document for at in range(number)}
    store.hset(keys.tombstones, mapping={SALT: salt, REVISION: 17} | fields)


async def test_a_change_costs_what_changed_and_all_are_read_in_a_thread(
    link: RedisLink, store: redis.Redis, keys: Keys, counted: list[str], understood: list[bool]
) -> None:
    many(store, keys, 5000)
    writing, following = (KnownTombstones(link, keys, 0.02) for _ in range(2))
    for known in (writing, following):
        await known.refresh()
    assert (len(understood), any(understood)) == (10_000, False)
    await writing.write(WHO, 5)  # the first one whose change is noted
    await following.refresh()
    for user in (OTHER, WHO, THIRD):
        counted.clear()
        understood.clear()
        await writing.write(user, 7)
        assert len(understood) == 2  # what changed, and the answer
        assert "HGETALL" not in counted
        await following.refresh()
        assert len(understood) == 3
        await following.refresh()
        assert len(understood) == 3
        assert "HGETALL" not in counted
        assert following.current == writing.current == stored(store, keys)


async def test_equal_revisions_are_of_equal_tombstones_also_after_a_fail_over(
    link: RedisLink, store: redis.Redis, keys: Keys
) -> None:
    """Two histories that diverge, and then have as many changes."""
    writing, following = (KnownTombstones(link, keys, 0.02) for _ in range(2))
    await writing.write(THIRD, 1)
    replica = Replica(store, keys)
    await writing.write(WHO, 5)
    await following.refresh()
    judged = following.current
    assert judged.of(WHO)
    replica.takes_over()
    await writing.write(OTHER, 5)
    (reply,) = await link.round_trip([following.look], Deadline(5.0))
    assert following.are_others(reply, judged)
    await following.refresh()
    for known in (writing, following):
        assert known.current.among([WHO, OTHER, THIRD]).keys() == {OTHER, THIRD}
        assert known.current == stored(store, keys)


async def test_a_hash_whose_revision_is_a_count_is_read_and_goes_on(
    link: RedisLink, store: redis.Redis, keys: Keys
) -> None:
    many(store, keys, 3)
    writing, following = (KnownTombstones(link, keys, 0.02) for _ in range(2))
    for known in (writing, following):
        await known.refresh()
    assert following.current.revision == 17
    await writing.write(WHO, 5)
    await following.refresh()
    assert (len(following.current.of_digests), following.current) == (4, stored(store, keys))
    assert len(str(following.current.revision)) == 19
    # A service or job of the earlier version writes beside, and notes no change.
    digest = user_digest(following.current.salt, OTHER)
    store.hset(keys.tombstones, digest, Tombstone(forgotten_ms=9).model_dump_json())
    store.hincrby(keys.tombstones, REVISION, 1)
    await writing.write(THIRD, 5)
    await following.refresh()
    assert following.current == stored(store, keys)
    assert following.current.of(OTHER) == Tombstone(forgotten_ms=9)


@pytest.mark.parametrize("seed", range(5))
async def test_every_copy_is_what_redis_holds_whatever_happens(
    link: RedisLink, store: redis.Redis, keys: Keys, seed: int
) -> None:
    chance, workers = random.Random(seed), [KnownTombstones(link, keys, 0.02) for _ in range(3)]
    users, replica = [f"user-{at}" for at in range(12)], Replica(store, keys)

    async def write() -> None:
        opted_out = chance.choice([None, True, False])
        await chance.choice(workers).write(chance.choice(users), chance.randrange(99), opted_out)

    async def write_many() -> None:
        for at in range(CHANGES_AT_MOST + chance.randrange(-2, 3)):
            await workers[0].write(f"other-{at}", at)

    async def follow() -> None:
        await chance.choice(workers).refresh()

    async def copy() -> None:
        nonlocal replica
        replica = Replica(store, keys)

    async def fail_over() -> None:
        replica.takes_over()

    async def lose() -> None:
        store.delete(keys.tombstones)

    for _ in range(150):
        (act,) = chance.choices([write, follow, copy, fail_over, lose, write_many], [30, 30, 5, 5, 1, 1])
        await act()
        (reply,) = await link.round_trip([workers[0].look], Deadline(5.0))
        for worker in workers:
            if not worker.are_others(reply, worker.current):
                assert worker.current == stored(store, keys)
    for worker in workers:
        await worker.refresh()
        assert worker.current == stored(store, keys)
        assert worker.current.of_digests.opted_out == sum(
            tombstone.opted_out for tombstone in worker.current.of_digests.values()
        )


@pytest.mark.parametrize("field", [CHANGES, user_digest("00" * 16, WHO)])
async def test_damage_is_no_tombstone_that_is_missed(
    link: RedisLink, store: redis.Redis, keys: Keys, field: str
) -> None:
    store.hset(keys.tombstones, SALT, "00" * 16)
    writing, following = (KnownTombstones(link, keys, 0.02) for _ in range(2))
    await writing.write(THIRD, 5)
    await following.refresh()
    former = following.current
    await writing.write(WHO, 5)
    store.hset(keys.tombstones, field, "damaged")
    await following.refresh()
    if field == CHANGES:
        assert following.current == stored(store, keys)
        await writing.write(OTHER, 5)
        await following.refresh()
        assert following.current == stored(store, keys)
    else:
        assert following.current.among([WHO, OTHER, THIRD]) == {WHO: NOT_UNDERSTOOD, THIRD: former.of(THIRD)}
        assert following.error.startswith("1 not understood")


@pytest.mark.parametrize(
    "document", [b"damaged", b"\xff", b"[]", b"7", b'{"v":2,"until":[]}', b'{"forgotten_ms":"x"}',
                 b'{"forgotten_ms":5,"opted_out":"perhaps"}', b'{"forgotten_ms":5,"opted_out":[]}']
)  # fmt: skip
async def test_whose_tombstone_is_not_understood_counts_as_opted_out(
    link: RedisLink, store: redis.Redis, keys: Keys, document: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start, in a change, and until another one is written in its place."""
    writing, following = (KnownTombstones(link, keys, 0.02) for _ in range(2))
    await writing.write(THIRD, 5)
    await writing.write(WHO, 7)
    digest = user_digest(writing.current.salt, WHO)
    store.hset(keys.tombstones, digest, document)
    starting = KnownTombstones(link, keys, 0.02)
    for known in (starting, following):
        await known.refresh()
        assert known.current.among([WHO, OTHER, THIRD]) == {WHO: NOT_UNDERSTOOD, THIRD: Tombstone(forgotten_ms=5)}
        assert (known.current.not_understood, known.unreadable) == (frozenset({digest}), "")
        assert known.error.startswith("1 not understood")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
    await starting.refresh()
    assert len(caplog.records) == 2
    with pytest.raises(ValueError, match="not understood"):
        stored(store, keys)  # as jobs read them
    assert await starting.write(WHO, 9) == Tombstone(forgotten_ms=9, opted_out=True)
    assert await starting.write(WHO, 9, opted_out=False) == Tombstone(forgotten_ms=10)
    for known in (starting, following):
        await known.refresh()
        assert (known.current, known.error) == (stored(store, keys), "")


@pytest.mark.parametrize("field", [SALT, REVISION])
async def test_tombstones_that_cannot_be_told_are_said_to_be_unreadable(
    link: RedisLink, store: redis.Redis, keys: Keys, field: str
) -> None:
    writing = KnownTombstones(link, keys, 0.02)
    await writing.write(WHO, 5)
    former: Any = store.hget(keys.tombstones, field)
    store.hset(keys.tombstones, field, "damaged")
    starting = KnownTombstones(link, keys, 0.02)
    for known in (starting, starting, *([writing] if field == REVISION else [])):
        await known.refresh()
        assert "is damaged" in known.unreadable
        assert known.error == known.unreadable
    if field == SALT:
        with pytest.raises(RedisUnavailable, match="put back a copy"):
            await starting.write(OTHER, 5)
    store.hset(keys.tombstones, field, former)
    for known in (starting, writing):
        await known.refresh()
        assert (known.current, known.unreadable, known.error) == (stored(store, keys), "", "")


async def test_those_who_wait_for_one_reading_read_nothing_again(
    link: RedisLink, store: redis.Redis, keys: Keys, counted: list[str]
) -> None:
    """Of a hash that an earlier version wrote last, whose changes cannot be told."""
    many(store, keys, 2000)
    known = KnownTombstones(link, keys, 0.02)
    await asyncio.gather(*(known.read() for _ in range(5)))
    assert counted.count("HGETALL") == 1
    assert known.current == stored(store, keys)


def test_a_later_table_shares_what_did_not_change_and_changes_nothing() -> None:
    digests = [user_digest("00" * 16, f"user-{at}") for at in range(1000)]
    former = TombstoneTable((digest, Tombstone(forgotten_ms=at)) for at, digest in enumerate(digests))
    later = TombstoneTable([(digests[7], Tombstone(forgotten_ms=5, opted_out=True))], former)
    assert (former[digests[7]], later[digests[7]]) == (
        Tombstone(forgotten_ms=7), Tombstone(forgotten_ms=5, opted_out=True),
    )  # fmt: skip
    assert [len(former), len(later), former.opted_out, later.opted_out] == [1000, 1000, 0, 1]
    parts = [former._parts[prefix] is part for prefix, part in later._parts.items()]
    assert parts.count(False) == 1
    assert digests[8] in later
    assert "f" * 32 not in later
    assert list(later) == list(former)
