"""The suite of ``RedisPort`` over one server, over a primary that Sentinel names, and over a cluster of three nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from service.redis import RedisPort
from service.redis_cluster import open_port
from tests.servers import Cluster, Watched, running_sentinel
from tests.suites.redis_port import RedisPortSuite


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
