"""The suite of ``RedisPort`` over one server, over a primary that Sentinel names, and over a cluster of three nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from models.contract.keys import PREFIXES, Keys
from models.redis_address import RedisAddress
from service.configuration import with_prefix
from service.errors import RedisUnavailable
from service.redis import RedisPort
from service.redis_cluster import open_port
from service.settings import Settings, SettingsError
from tests.servers import Cluster, Watched, running_sentinel
from tests.service.conftest import eventually
from tests.suites.redis_port import RedisPortSuite, do


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with running_sentinel(tmp_path_factory.mktemp("sentinel")) as watched:
        yield watched


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisPort]:
    port = open_port(url, 3, "primary")
    yield port
    await port.close()


class TestOneServer(RedisPortSuite):
    @pytest.fixture
    async def port(self, valkey: str) -> AsyncIterator[RedisPort]:
        async with opened(valkey) as port:
            yield port


class TestNamedPrimary(RedisPortSuite):
    @pytest.fixture
    async def port(self, watched: Watched) -> AsyncIterator[RedisPort]:
        async with opened(watched.url) as port:
            yield port


class TestCluster(RedisPortSuite):
    @pytest.fixture
    async def port(self, shared_cluster: Cluster) -> AsyncIterator[RedisPort]:
        async with opened(shared_cluster.url) as port:
            yield port


async def test_after_a_failover_the_new_primary_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the service's connections and by the jobs'."""
    monkeypatch.setattr("service.redis.LONGEST_PAUSE_SECONDS", 0.1)
    with running_sentinel(tmp_path, replicas=1) as watched, RedisAddress.parse(watched.url).connected() as client:
        async with opened(watched.url) as port:
            await do(port, ("SET", "a", "1"))
            (replicas,) = await do(port, ("WAIT", 1, 5000))
            assert replicas == 1
            assert client.get("a") == b"1"
            watched.primary.kill()

            async def writes() -> bool:
                with suppress(RedisUnavailable):
                    return await do(port, ("SET", "b", "2"), ("GET", "a")) == [b"OK", b"1"]
                return False

            await eventually(writes)
            assert await asyncio.to_thread(client.get, "b") == b"2"
            assert watched.replicas[0].client.get("b") == b"2"


def test_the_configurations_of_a_cluster_are_looked_for(shared_cluster: Cluster) -> None:
    with RedisAddress.parse(shared_cluster.url).connected() as client:
        client.sadd(PREFIXES, "lorank:parted")
        client.set(Keys("lorank:parted").live, "r")
        client.set(Keys("lorank:other").live, "r")
        client.sadd(PREFIXES, "lorank:other")
        with pytest.raises(SettingsError, match=r"LORANK_KEY_PREFIX, one of .*lorank:other.*lorank:parted"):
            with_prefix(Settings(redis_url=shared_cluster.url))
        client.delete(Keys("lorank:parted").live, Keys("lorank:other").live)
        client.srem(PREFIXES, "lorank:parted", "lorank:other")
    with pytest.raises(SettingsError, match="set LORANK_KEY_PREFIX"):
        with_prefix(Settings(redis_url="redis+cluster://127.0.0.1:1"))
