"""Publishing to a Redis Cluster, and serving from it while a primary is killed and slots are moved."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from models.contract.keys import Keys
from offline.publish.connection import open_store
from offline.publish.streams import new_interactions
from service.settings import Settings
from tests.offline.publish.conftest import Release
from tests.servers import Cluster, eventually, running_cluster
from tests.service.conftest import Running, running


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with running_cluster(tmp_path_factory.mktemp("replicated"), replicas=3) as cluster:
        yield cluster


@dataclass
class Load:
    """Requests of a few clients, one after the other, until ``over``; what came of them."""

    service: Running
    users: Sequence[str]
    items: Sequence[str]
    over: bool = False
    answers: int = 0
    accepted: list[tuple[str, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    degraded: Counter[str] = field(default_factory=Counter)

    async def rank(self, seed: int) -> None:
        dice = random.Random(seed)
        while not self.over:
            candidates = [{"id": item} for item in dice.sample(self.items, 10)]
            body = {"user_id": dice.choice(self.users), "candidates": candidates}
            response = await self.service.http.post("/v1/rank", json=body)
            if response.status_code == 200:
                self.answers += 1
                self.degraded.update(response.json()["degraded"])
            else:
                self.failures.append(response.text)
            await asyncio.sleep(0.002)

    async def tell(self) -> None:
        time_ms = 1_700_000_000_000
        while not self.over:
            time_ms += 1
            user = self.users[time_ms % len(self.users)]
            event = {"user_id": user, "item_id": self.items[0], "value": 5, "timestamp_ms": time_ms}
            response = await self.service.http.post("/v1/feedback", json=event)
            if response.status_code == 200:
                self.accepted.append((user, time_ms))
            else:
                self.failures.append(response.text)
            await asyncio.sleep(0.005)


async def test_a_killed_primary_and_moving_slots_fail_no_request(
    replicated: Cluster, trained: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORANK_REDIS_URL", replicated.url)
    monkeypatch.setenv("LORANK_KEY_PREFIX", "lorank:synthetic")
    users, items = trained.data.log.user_ids, trained.data.log.item_ids
    with open_store(tmp_path, "synthetic") as store:
        await asyncio.to_thread(trained.publish, store)
    settings = Settings(
        redis_url=replicated.url, key_prefix="lorank:synthetic", data_dir=tmp_path, release_poll_seconds=0.1,
        default_deadline_ms=1000.0, max_deadline_ms=10_000.0,
    )  # fmt: skip
    async with running(settings) as service:
        load = Load(service, users, items)
        clients = [asyncio.create_task(load.rank(seed)) for seed in range(3)] + [asyncio.create_task(load.tell())]
        await asyncio.sleep(0.3)
        before = load.answers
        assert before > 0
        await asyncio.to_thread(_kill_and_move, replicated, Keys("lorank:synthetic"), users)
        await asyncio.sleep(0.3)
        load.over = True
        await asyncio.gather(*clients)
        print(load.answers, len(load.accepted), load.degraded)
        assert load.failures == []
        assert load.degraded.keys() <= {"no_knowledge", "no_features"}
        assert load.answers > before
        answer = await service.rank(users[0], items[:5])
        assert answer["degraded"] == []
        assert (await service.status())["redis"]["reachable"]
    with open_store(tmp_path, "synthetic") as store:
        events = {(event.user_id, event.time_ms) for event in new_interactions(store, "0-0")[0]}
        lost = [event for event in load.accepted if event not in events]
        assert not lost


def _kill_and_move(cluster: Cluster, keys: Keys, users: Sequence[str]) -> None:
    """A primary dies, its replica takes over, and slots of the two others change hands, under load."""
    victim, *others = cluster.primaries
    victim.kill()
    replica = cluster.replicas[0]

    def has_taken_over() -> bool:
        info: Any = replica.client.info("replication")
        return bool(info["role"] == "master")

    eventually(has_taken_over)
    slots = {key_slot(keys.user_history(user).encode()) for user in users}
    source, target = others
    mine = [slot for slot in slots if cluster.owner(slot) is source]
    for slot in mine[:6]:
        cluster.move_slot(slot, source, target)
    assert len(mine) > 0
