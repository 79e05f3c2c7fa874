"""The Redis adapter of the port ``UserFeatures``: conformance, and connections that are cancelled half-way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from models.contract.keys import Keys
from models.contract.profile import UserProfile
from service.features.users import RedisUserFeatures
from service.ranking.deadline import Deadline
from service.ranking.degraded import FeatureReadError
from service.ranking.types import UserState
from service.redis import RedisLink
from service.redis_connection import Command
from service.telemetry import Telemetry
from tests.service.conftest import Freezer
from tests.suites.user_features import SPACES, UserFeaturesSuite, events_of, knowledge_of


@dataclass(frozen=True)
class InRedis:
    store: redis.Redis
    keys: Keys

    def history(self, user_id: str, blob: bytes) -> None:
        self.store.set(self.keys.user_history(user_id), blob)

    def profile(self, user_id: str, blob: bytes) -> None:
        self.store.set(self.keys.user_profile(user_id), blob)

    def arms(self, unit: str, arms: dict[str, str]) -> None:
        for bucket, arm in arms.items():
            self.store.hset(self.keys.unit_arms(unit), bucket, arm)

    def knowledge(self, user_id: str, space: str, blob: bytes) -> None:
        self.store.set(self.keys.user_knowledge(user_id, space), blob)


@pytest.fixture
def stored(store: redis.Redis, keys: Keys) -> InRedis:
    return InRedis(store, keys)


@pytest.fixture
def features(link: RedisLink, keys: Keys, telemetry: Telemetry) -> RedisUserFeatures:
    return RedisUserFeatures(link, keys, telemetry)


class TestRedisUserFeatures(UserFeaturesSuite):
    """Runs the suite."""


USERS = 30


def _store_users(stored: InRedis) -> None:
    for at in range(USERS):
        user = f"u{at}"
        stored.history(user, events_of(user, at + 1))
        stored.profile(user, UserProfile(owner=user, features={"name": user}).pack())
        for space in SPACES:
            stored.knowledge(user, space.fingerprint, knowledge_of(user, float(at), space))


def _assert_own(at: int, state: UserState) -> None:
    """A reply that went astray would be refused by its owner check, so nothing may be refused either."""
    assert state.refused == frozenset()
    assert state.features == {"name": f"u{at}"}
    assert len(state.events) == at + 1
    assert {record.owner for record in state.knowledge.values()} == {f"u{at}"}
    assert list(state.knowledge) == [space.fingerprint for space in SPACES]


@pytest.mark.own_valkey
@pytest.mark.parametrize("connections", [1, 3])
async def test_cancelled_and_late_reads_never_deliver_to_somebody_else(
    valkey: str, keys: Keys, telemetry: Telemetry, stored: InRedis, freezer: Freezer, connections: int
) -> None:
    """Redis hangs and goes on while reads of different users are cancelled or run out of time, at every point
    of their way: waiting for a connection, sending, waiting for the first or for a later reply."""
    _store_users(stored)
    link = RedisLink(valkey, connections)
    features = RedisUserFeatures(link, keys, telemetry)
    dice = random.Random(7)
    counts = {"answered": 0, "late": 0, "cancelled": 0}

    async def fetch(at: int, seconds: float) -> None:
        try:
            _assert_own(at, await features.fetch(f"u{at}", SPACES, USERS, Deadline(seconds)))
            counts["answered"] += 1
        except FeatureReadError:
            counts["late"] += 1

    async def storm() -> None:
        short = [dice.random() < 0.3 for _ in range(40)]
        tasks = [asyncio.create_task(fetch(dice.randrange(USERS), 0.005 if late else 30.0)) for late in short]
        for task in tasks:
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)  # lets reads advance by a random number of steps
            if dice.random() < 0.5:
                task.cancel()
        await asyncio.wait([task for task, late in zip(tasks, short, strict=True) if late])
        freezer.thaw()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, asyncio.CancelledError):
                counts["cancelled"] += 1
            elif isinstance(result, BaseException):
                raise result

    for turn in range(12):
        if turn % 3 == 2:
            freezer.freeze()
        await storm()
    assert min(counts.values()) > 0, counts

    for at in range(USERS):
        _assert_own(at, await features.fetch(f"u{at}", SPACES, USERS, Deadline(30)))
    assert len(link._connections) <= connections  # none was lost on the way either
    await link.close()
    assert len(link._connections) == 0


async def test_a_server_that_refuses_the_read_is_a_failed_read(
    store: redis.Redis, valkey: str, keys: Keys, telemetry: Telemetry
) -> None:
    store.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-getrange"])
    link = RedisLink(valkey.replace("unix://", "unix://mute:x@"), 2)
    try:
        with pytest.raises(FeatureReadError, match="NoPermission"):
            await RedisUserFeatures(link, keys, telemetry).fetch("u", SPACES, 5, Deadline(10))
    finally:
        await link.close()
        store.acl_deluser("mute")


async def test_any_number_of_spaces_is_one_round_trip_to_one_slot(
    link: RedisLink, keys: Keys, telemetry: Telemetry, stored: InRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store_users(stored)
    pipelines: list[Sequence[Command]] = []
    send = link.round_trip

    async def watched(commands: Sequence[Command], deadline: Deadline, may_be_stale: bool = False) -> list[Any]:
        assert may_be_stale, "a replica may answer, too"
        pipelines.append(commands)
        return await send(commands, deadline)

    monkeypatch.setattr(link, "round_trip", watched)
    _assert_own(3, await RedisUserFeatures(link, keys, telemetry).fetch("u3", SPACES, USERS, Deadline(10)))
    (commands,) = pipelines
    assert [command[0] for command in commands] == ["GETRANGE", "GET", "GET", "GET"]
    assert all("{u:u3}" in str(command[1]) for command in commands)
