"""Fixtures of the service's tests: a key prefix, artifacts and an app per test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import hypothesis
import pytest
import redis
from fastapi import FastAPI

from models.contract.keys import Keys
from offline.child import child_python
from service.app import create_app
from service.forgetting.erasure import Erasure
from service.forgetting.requests import Requests
from service.forgetting.tombstones import KnownTombstones
from service.forgetting.traces import UserTraces
from service.redis import RedisLink, RedisPort
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.tiny import Publisher

ROOT = Path(__file__).parents[2]

_numbers = itertools.count()

# No timed asserts: on a busy machine an example takes what it takes.
hypothesis.settings.register_profile("service", deadline=None, database=None)
hypothesis.settings.load_profile("service")


def erasure_of(link: RedisPort, keys: Keys) -> Erasure:
    """What forgets users, as the app makes it."""
    tombstones = KnownTombstones(link, keys, 0.02)
    tombstones.unreadable = ""  # they are read, and there are none
    return Erasure(UserTraces(link, keys), tombstones, Requests(link, keys))


class Freezer:
    """Stops and continues the server's process: to its clients it hangs, at whatever point they are."""

    def __init__(self, process: int) -> None:
        self._process = process

    def freeze(self) -> None:
        os.kill(self._process, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process, signal.SIGCONT)


@pytest.fixture
def freezer(store: redis.Redis) -> Iterator[Freezer]:
    """Of the test's own server: mark the test ``own_valkey``."""
    info: Any = store.info("server")
    freezer = Freezer(info["process_id"])
    yield freezer
    freezer.thaw()


@pytest.fixture
def keys() -> Keys:
    return Keys(f"t{next(_numbers)}")


@pytest.fixture
def store(valkey: str) -> Iterator[redis.Redis]:
    """A synchronous client for arranging and inspecting."""
    with redis.Redis.from_url(valkey) as client:
        yield client


@pytest.fixture
async def link(valkey: str) -> AsyncIterator[RedisLink]:
    """The connection as the service makes it."""
    link = RedisLink(valkey, 16)
    yield link
    await link.close()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def publisher(store: redis.Redis, keys: Keys, settings: Settings) -> Publisher:
    return Publisher(store, keys, settings.artifact_folder)


@pytest.fixture
def settings(valkey: str, keys: Keys, tmp_path: Path) -> Settings:
    """Deadlines are long, so that a busy machine degrades nothing; tests of deadlines set their own."""
    return Settings(
        redis_url=valkey,
        key_prefix=keys.prefix,
        data_dir=tmp_path,
        release_poll_seconds=0.02,
        default_deadline_ms=10_000.0,
        max_deadline_ms=10_000.0,
    )


@dataclass(frozen=True)
class Running:
    """An app inside its lifespan, and a client of it."""

    app: FastAPI
    http: httpx2.AsyncClient

    async def rank(self, user: str = "u", candidates: Any = ("a", "b", "c", "d", "e"), **more: Any) -> dict[str, Any]:
        entries = [entry if isinstance(entry, dict) else {"id": entry} for entry in candidates]
        body = {"user_id": user, "candidates": entries}
        response = await self.http.post("/v1/rank", json=body | more)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.http.get("/v1/status")).json()
        return answer

    async def follows(self, **release: str) -> None:
        """Wait until a release is live that has these entries in the status, as ``id`` and ``revision``."""

        async def condition() -> bool:
            live = (await self.status())["release"]
            return live is not None and release.items() <= live.items()

        await eventually(condition)

    async def refused(self) -> Any:
        """The release that was refused, and why; None if none was."""
        return (await self.status())["refused"]

    def metric(self, name: str, **labels: str) -> float:
        value = self.app.state.service.telemetry.registry.get_sample_value(name, labels)
        return 0.0 if value is None else float(value)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield Running(app, http)


@pytest.fixture
async def service(settings: Settings, publisher: Publisher) -> AsyncIterator[Running]:
    """The whole service with the tiny release ``r1``."""
    publisher.publish()
    async with running(settings) as service:
        yield service


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a service that runs as a process, on a free port."""
    port = free_port()
    bare = {name: value for name, value in os.environ.items() if not name.startswith("LORANK_")}
    return bare | {
        "LORANK_DATA_DIR": str(tmp_path),
        "LORANK_KEY_PREFIX": "lorank:tiny",
        "LORANK_PORT": str(port),
        "LORANK_RELEASE_POLL_SECONDS": "0.05",
        "LORANK_DEFAULT_DEADLINE_MS": "5000",
    }


@pytest.fixture
def process(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A service in that environment. It may not be ready yet."""
    with subprocess.Popen(child_python("-m", "service"), cwd=ROOT, env=environment) as started:
        yield started
        started.kill()


def ended_at_a_port_in_use(environment: dict[str, str]) -> tuple[int, str]:
    """Exit status and errors of a service that finds its port taken."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(environment["LORANK_PORT"])))
        other.listen()
        command = [sys.executable, "-m", "service"]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, text=True)
    return ended.returncode, ended.stderr


async def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value of ``condition``, which may be asynchronous; fails after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < until, "the condition never held"
        await asyncio.sleep(0.01)
