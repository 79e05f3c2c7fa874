"""Publishing to a Redis Cluster, and serving from it while a primary is killed and slots are moved."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from models.contract.keys import Keys
from models.contract.packing import ITEM, KNOWLEDGE
from offline.jobs.forecast import mean_bytes
from offline.publish import release
from offline.publish.archive import archive
from offline.publish.bulk import Bulk
from offline.publish.connection import Store, StoreError, open_store
from offline.publish.records import WriteCache, append_change
from offline.publish.rewriting import rewrite_histories
from offline.publish.streams import new_interactions
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis import RedisLink, replies_to
from service.settings import Settings
from tests.offline.publish.conftest import Release, content_of, roll_back, workdir
from tests.servers import Cluster, Server, eventually, running_cluster
from tests.service.conftest import Running, running

_numbers = itertools.count()


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


@pytest.fixture
def cluster_store(
    shared_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Store, Cluster]]:
    """A store as the jobs open it, in a cluster."""
    monkeypatch.setenv("LORANK_REDIS_URL", shared_cluster.url)
    monkeypatch.setenv("LORANK_KEY_PREFIX", f"cluster-{next(_numbers)}")
    with open_store(tmp_path / "cluster", "synthetic") as store:
        yield store, shared_cluster


def without_prefix(store: Store) -> dict[str, bytes]:
    """Strings of the installation whose values depend on nothing but what was published."""
    prefix = f"{store.keys.prefix}:"
    content = {key.removeprefix(prefix): value for key, value in content_of(store).items()}
    return {
        key: KNOWLEDGE.content(value) if ":k:" in key else ITEM.content(value) if ":f:" in key else value
        for key, value in content.items()
        if not key.endswith((":manifest", ":revision")) and key not in ("installation", "stamp")
    }


def test_the_jobs_do_in_a_cluster_what_they_do_in_one_server(
    store: Store, cluster_store: tuple[Store, Cluster], trained: Release
) -> None:
    parted, _ = cluster_store
    for each in (store, parted):
        assert trained.publish(each).switched
        assert trained.publish(each, verify=True).records["item features"].written == 0
        assert trained.shifted("text").publish(each, verify=True).records["item/text"].written > 0
        assert roll_back(each, "text").restored > 0
        assert trained.next("again").publish(each).switched
        assert release.rollback(each)[1] == trained.id
        append_change(each, "x")
    assert without_prefix(parted) == without_prefix(store)
    assert len(without_prefix(parted)) > 100
    assert mean_bytes(parted, parted.keys.user_history, trained.data.log.user_ids) > 0
    assert archive(parted, workdir(parted) / "archive", ())["interactions"].added == 0
    for each in (store, parted):
        for name in release.releases(each):
            release.delete(each, name, 1)
        assert not [key for key in content_of(each) if ":f:" in key or ":manifest" in key]


def test_a_history_is_rewritten_in_a_cluster(cluster_store: tuple[Store, Cluster], trained: Release) -> None:
    store, _ = cluster_store
    trained.publish(store)
    store.redis.xadd(store.keys.interactions, {"damaged": "entry"})
    assert new_interactions(store, "0-0")[2] == 1
    gone = store.keys.user_history("nobody knows me")
    store.redis.set(gone, b"x" * 24)
    written, complete = rewrite_histories(store, trained.data.log, 100, WriteCache(store, workdir(store) / "cache"))
    assert (complete, store.redis.get(gone)) == (True, None)
    assert written.unchanged == len(trained.data.log.user_ids)
    assert archive(store, workdir(store) / "archive", ())["interactions"].refused == 1


def test_bulk_follows_slots_that_move_and_opens_lost_connections(cluster_store: tuple[Store, Cluster]) -> None:
    store, cluster = cluster_store
    keys = [store.keys.user_profile(f"u{at}") for at in range(200)]
    source, target, *_ = cluster.primaries
    slot = next(slot for slot in (key_slot(key.encode()) for key in keys) if cluster.owner(slot) is source)
    with Bulk(store.redis) as bulk:
        bulk.set(keys, [key.encode() for key in keys])
        for start, end, finish in ((source, target, False), (source, target, True), (target, source, True)):
            cluster.move_slot(slot, start, end, finish=finish)
            assert bulk.get(keys) == [key.encode() for key in keys]
            assert bulk.set_new(keys[:50], [b"x"] * 50) == [False] * 50
        for server in cluster.primaries:
            server.client.client_kill_filter(_type="normal", skipme=True)
        assert bulk.lengths(keys) == [len(key) for key in keys]
        store.redis.delete(keys[0])
        store.redis.lpush(keys[0], "no string")
        assert bulk.get(keys[:2]) == [None, keys[1].encode()]
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            bulk.ask([("APPEND", key, b"x") for key in keys[:2]])


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.redis_address.ATTEMPTS", 1)
    for url, message in (
        ("redis+cluster://:secret@127.0.0.1:1", "Redis at .*127.0.0.1:1 does not answer"),
        ("redis+sentinel://127.0.0.1:1/main", "No master found for 'main'"),
        ("redis+sentinel://127.0.0.1:1", "LORANK_REDIS_URL is not understood: the name of the primary is missing"),
    ):
        monkeypatch.setenv("LORANK_REDIS_URL", url)
        with pytest.raises(StoreError, match=message) as refused, open_store(tmp_path, "small"):
            pass
        assert "secret" not in str(refused.value)


async def test_a_cluster_that_is_named_as_a_server_is_told_with_the_remedy(
    shared_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(f"cluster-{next(_numbers)}")
    owner = shared_cluster.owner(key_slot(keys.live.encode()))
    other = next(server for server in shared_cluster.primaries if server is not owner)
    monkeypatch.setenv("LORANK_REDIS_URL", f"redis://127.0.0.1:{other.port}")
    monkeypatch.setenv("LORANK_KEY_PREFIX", keys.prefix)
    with pytest.raises(StoreError, match=r"redis\+cluster://"), open_store(tmp_path, "synthetic"):
        pass
    link = RedisLink(f"redis://127.0.0.1:{other.port}", 1)
    with pytest.raises(RedisUnavailable, match=r"redis\+cluster://"):
        await replies_to(link, [("GET", keys.live)], Deadline(5.0))
    await link.close()


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


def _is_ok(server: Server) -> bool:
    info: Any = server.client.cluster("info")
    return bool(info["cluster_state"] == "ok")


def _kill_and_move(cluster: Cluster, keys: Keys, users: Sequence[str]) -> None:
    """A primary dies, its replica takes over, and slots of the two others change hands, under load."""
    victim, *others = cluster.primaries
    victim.kill()
    replica = cluster.replicas[0]

    def has_taken_over() -> bool:
        info: Any = replica.client.info("replication")
        return bool(info["role"] == "master")

    eventually(has_taken_over)
    eventually(lambda: all(_is_ok(server) for server in (replica, *others)))
    slots = {key_slot(keys.user_history(user).encode()) for user in users}
    source, target = others
    mine = [slot for slot in slots if cluster.owner(slot) is source]
    for slot in mine[:6]:
        cluster.move_slot(slot, source, target)
    assert len(mine) > 0
