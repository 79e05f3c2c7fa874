"""Tombstones as a service knows them: a worker's copy is what Redis holds, whoever wrote it, and costs no more than
what changed; who has a tombstone is not remembered, also where it is damaged."""

from __future__ import annotations

import asyncio
import random
import threading
import time
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
from service.settings import Settings
from tests.service.conftest import Running, erasure_of, eventually, running
from tests.service.forgetting.traces import behave, texts_in
from tests.service.tiny import Publisher

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


async def test_who_opted_out_is_ranked_as_somebody_unknown_and_not_remembered(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    unknown = (await service.rank("nobody-knows-me"))["items"]
    await behave(service, publisher, store, keys, WHO)
    assert (await service.rank(WHO))["items"] != unknown
    assert (await service.http.put(f"/v1/users/{WHO}/opt-out")).status_code == 202
    publisher.user_knowledge(WHO, [[0.5, 0.5]])  # as a job would that does not know yet
    assert (await service.rank(WHO))["items"] == unknown
    answer = (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 5.0})).json()
    assert (answer["accepted"], answer["ignored"][0]["reason"]) == (0, "forgotten")
    await service.rank(OTHER)
    await eventually(lambda: any(OTHER.encode() in text for text in texts_in(store, keys.exposures)))
    assert not any(f'"{WHO}"'.encode() in text for text in texts_in(store, keys.exposures))
    assert (await service.http.get(f"/v1/users/{WHO}/export")).json()["tombstone"]["opted_out"] is True

    # DELETE is no way to be remembered again; opting in is.
    await service.http.delete(f"/v1/users/{WHO}")
    assert (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 5.0})).json()[
        "accepted"
    ] == 0
    assert (await service.http.put(f"/v1/users/{WHO}/opt-in")).json() == {"user_id": WHO, "opted_out": False}
    await asyncio.sleep(0.01)
    assert (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 5.0})).json()[
        "accepted"
    ] == 1


@pytest.mark.parametrize("document", ["damaged", '{"v":2,"forgotten_until":7}'])
async def test_a_worker_that_starts_beside_a_damaged_tombstone_remembers_nobody_who_opted_out(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, link: RedisLink, document: str
) -> None:
    publisher.publish()
    earlier = erasure_of(link, keys).tombstones
    for user in (WHO, OTHER):
        await earlier.write(user, 1, opted_out=True)
    store.hset(keys.tombstones, user_digest(earlier.current.salt, WHO), document)
    async with running(settings) as service:
        for user in (WHO, OTHER, "new"):
            event = {"user_id": user, "item_id": "a", "value": 4.0}
            accepted = (await service.http.post("/v1/feedback", json=event)).json()["accepted"]
            assert accepted == (user == "new"), user
            await service.rank(user)
        await eventually(lambda: any(b'"new"' in text for text in texts_in(store, keys.exposures)))
        for user in (WHO, OTHER):
            assert not any(f'"{user}"'.encode() in text for text in texts_in(store, keys.exposures))
            assert not store.exists(keys.user_history(user))
        forgetting = service.app.state.service.status()["forgetting"]
        assert (forgetting["tombstones"], forgetting["opted_out"], forgetting["not_understood"]) == (2, 2, 1)
        assert forgetting["error"].startswith("1 not understood")
        assert (await service.http.delete(f"/v1/users/{WHO}")).status_code == 202
        assert (await service.http.put(f"/v1/users/{WHO}/opt-in")).status_code == 200
        assert service.app.state.service.status()["forgetting"]["error"] is None


@pytest.mark.parametrize("salt", ["damaged", "  ", "0a", "0a" * 15, "0a" * 80, "0A" * 16, "0a" * 16 + "\n"])
async def test_without_a_salt_that_is_whole_nothing_is_stored_of_anybody(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, salt: str
) -> None:
    """Also one that is hexadecimal: under it nobody who opted out would be known."""
    publisher.publish()
    store.hset(keys.tombstones, mapping={SALT: salt, REVISION: 7})
    async with running(settings) as service:
        refused = await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 4.0})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "redis_unavailable")
        await service.rank(WHO)
        status = service.app.state.service.status
        await eventually(lambda: status()["stages"]["exposures"]["state"] == "degraded")
        assert "nobody can tell" in status()["stages"]["exposures"]["reason"]
        assert "damaged" in status()["forgetting"]["error"]
        assert (await service.http.delete(f"/v1/users/{WHO}")).status_code == 503
        assert not store.exists(keys.user_history(WHO), keys.interactions, keys.exposures)
        store.delete(keys.tombstones)


def test_tombstones_tell_digests_and_times_alone(store: redis.Redis) -> None:
    digest = user_digest("00" * 16, WHO)
    tombstone = Tombstone(forgotten_ms=5)
    fields = {SALT.encode(): b"00" * 16, REVISION.encode(): b"3", digest.encode(): tombstone.model_dump_json().encode()}
    tombstones = Tombstones.parse(fields.items())
    assert tombstones.revision == 3
    assert tombstones.forbids(WHO, 5)
    assert not tombstones.forbids(WHO, 6)
    assert not tombstones.forbids(OTHER, 5)
    assert tombstones.among([WHO, OTHER]) == {WHO: tombstone}
    assert user_digest("01" * 16, WHO) != digest
    with pytest.raises(ValueError, match="not understood"):
        Tombstones.parse({b"x": b"{}"}.items())
    for name in (SALT, REVISION):
        less = {field: value for field, value in fields.items() if field != name.encode()}
        with pytest.raises(ValueError, match="gone: put back a copy"):
            Tombstones.parse(less.items())
        assert Tombstones.parse({name.encode(): fields[name.encode()]}.items()).among([WHO]) == {}


async def test_the_status_counts_tombstones(service: Running, store: redis.Redis, keys: Keys) -> None:
    await service.http.delete(f"/v1/users/{WHO}")
    await service.http.put(f"/v1/users/{OTHER}/opt-out")
    assert (await service.status())["forgetting"] == {
        "tombstones": 2, "opted_out": 1, "not_understood": 0, "unlooked": 0, "error": None,
    }  # fmt: skip
    store.hset(keys.tombstones, "f" * 32, "{}")
    store.hincrby(keys.tombstones, REVISION, 1)
    await eventually(lambda: service.app.state.service.status()["forgetting"]["error"])


async def test_an_opt_out_survives_a_worker_that_does_not_know_of_it(
    link: RedisLink, store: redis.Redis, keys: Keys
) -> None:
    knowing, other = erasure_of(link, keys), erasure_of(link, keys)
    late = int(time.time() * 1000) + 60_000  # of a machine whose clock runs ahead
    await knowing.tombstones.write(WHO, late, opted_out=True)
    await other.forget(WHO, "")
    assert other.tombstones.current.of(WHO) == Tombstone(forgotten_ms=late, opted_out=True)
    third = erasure_of(link, keys)
    await third.opt_in(WHO)
    assert third.tombstones.current.of(WHO) == Tombstone(forgotten_ms=late + 1)  # later, so that jobs believe it


async def test_opting_in_needs_redis(settings: Settings, publisher: Publisher) -> None:
    """Otherwise it would be answered without an effect."""
    publisher.publish()
    async with running(settings) as service:
        await service.app.state.service.erasure.traces.link.close()
        assert (await service.http.put(f"/v1/users/{WHO}/opt-in")).status_code == 503


@pytest.mark.parametrize("damage", ["no revision", "no salt", "an empty salt", "another type"])
async def test_tombstones_that_cannot_be_told_are_not_taken_for_none(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, damage: str
) -> None:
    """Nobody is remembered by a service that has just started, and by one that knew them."""
    publisher.publish()
    feedback = {"user_id": WHO, "item_id": "a", "value": 4.0}
    async with running(settings) as service:
        assert (await service.http.put(f"/v1/users/{WHO}/opt-out")).status_code == 202
        match damage:
            case "no revision":
                store.hdel(keys.tombstones, REVISION)
            case "no salt":
                store.hdel(keys.tombstones, SALT, REVISION)
            case "an empty salt":
                store.hset(keys.tombstones, mapping={SALT: "", REVISION: 5})
            case "another type":
                store.delete(keys.tombstones)
                store.set(keys.tombstones, "x")
        async with running(settings) as other:
            assert (await other.http.post("/v1/feedback", json=feedback)).status_code == 503
            assert (await other.status())["forgetting"]["error"]
        await service.http.post("/v1/feedback", json=feedback)
        # A deletion brings a new revision, and no new salt, which would hide whoever was forgotten under the old one.
        assert (await service.http.delete("/v1/users/x")).status_code == (202 if damage == "no revision" else 503)
    assert not store.exists(keys.user_history(WHO))
    assert not store.exists(keys.interactions) or not store.xlen(keys.interactions)


@pytest.mark.parametrize("damage", ["no revision", "no salt", "another salt", "another type", "gone"])
async def test_a_service_that_knew_the_tombstones_judges_by_its_copy(
    service: Running, store: redis.Redis, keys: Keys, damage: str
) -> None:
    """As docs/forgetting.md has it: but for a hash that is gone as a whole, which looks like one that never was."""
    await service.http.put(f"/v1/users/{WHO}/opt-out")
    known = service.app.state.service.erasure.tombstones
    match damage:
        case "no revision":
            store.hdel(keys.tombstones, REVISION)
        case "no salt":
            store.hdel(keys.tombstones, SALT)
        case "another salt":
            store.hset(keys.tombstones, SALT, "0a" * 15)
        case _:
            store.delete(keys.tombstones)
    if damage == "another type":
        store.set(keys.tombstones, "x")
    if damage in ("no revision", "another type"):
        await eventually(lambda: known.error)
    if damage == "gone":
        await eventually(lambda: not known.current.of_digests)

    async def accepted(user: str) -> tuple[int, int | None]:
        answer = await service.http.post("/v1/feedback", json={"user_id": user, "item_id": "a", "value": 4.0})
        return answer.status_code, answer.json().get("accepted")

    assert await accepted(WHO) == (200, int(damage == "gone"))
    assert await accepted(OTHER) == ((503, None) if damage == "no revision" else (200, 1))
    answer = await service.http.delete(f"/v1/users/{THIRD}")
    assert answer.status_code == (202 if damage in ("no revision", "gone") else 503)
