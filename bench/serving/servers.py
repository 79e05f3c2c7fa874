"""An installed world with servers in front of it: ours, and what others would write, on the same Redis.

Servers have core 0; Redis and the load have core 1. A server that is not under load waits and costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import redis

from bench.serving.installed import lay_out
from bench.serving.world import World, publish_world
from models.contract.keys import Keys
from models.embedded import embedded_redis
from offline.publish.connection import Store

SERVER_CORE, LOAD_CORE = 0, 1
PEERS = ("plain FastAPI", "BentoML", "LitServe")


@dataclass(frozen=True, slots=True)
class Installed:
    """A world in Redis. ``folder`` holds bodies of requests and the plain servers' files; ``peers`` is the Python of an
    environment with other frameworks (bench/requirements.txt), if there is one."""

    url: str
    store: Store
    folder: Path
    peers: Path | None


@contextmanager
def installed(world: World, scratch: Path, peers: Path | None) -> Iterator[Installed]:
    """The world, published by the jobs."""
    with embedded_redis(scratch / "valkey") as url, redis.Redis.from_url(url) as client:
        info: Any = client.info("server")
        os.sched_setaffinity(int(info["process_id"]), {LOAD_CORE})
        for name in ("artifacts", "plain"):
            (scratch / name).mkdir()
        store = Store(client, Keys("lorank"), scratch / "artifacts", url)
        publish_world(world, store, scratch / "jobs")
        asyncio.run(lay_out(world, store, url, scratch / "plain"))
        yield Installed(url, store, scratch / "plain", peers)


@contextmanager
def ours(world: Installed, **settings: str) -> Iterator[str]:
    """The service; the URL of its ranking route. ``settings`` are names and values of ``LORANK_*`` variables."""
    port = free_port()
    environment = {
        "LORANK_REDIS_URL": world.url, "LORANK_ARTIFACTS": str(world.store.artifacts), "LORANK_PORT": str(port),
        "LORANK_DEFAULT_DEADLINE_MS": "5000", **{f"LORANK_{name.upper()}": one for name, one in settings.items()},
    }  # fmt: skip
    with _server([sys.executable, "-m", "service"], environment, port, "/readyz") as url:
        yield f"{url}/v1/rank"


@contextmanager
def peer(name: str, world: Installed) -> Iterator[str]:
    """One of ``PEERS``; the URL of its ranking route."""
    port, python = str(free_port()), str(world.peers or sys.executable)
    uvicorn = ["uvicorn", "bench.serving.plain:app", "--port", port, "--no-access-log", "--loop", "uvloop"]
    commands = {
        "plain FastAPI": [sys.executable, "-m", *uvicorn, "--http", "httptools", "--log-level", "warning"],
        "BentoML": [python, "-m", "bentoml", "serve", "bench.serving.peers.bento:Plain", "--port", port],
        "LitServe": [python, "-m", "bench.serving.peers.lit", port],
    }
    environment = {
        "PLAIN": str(world.folder), "PLAIN_REDIS": world.url, "PYTHONPATH": os.getcwd(), "BENTOML_DO_NOT_TRACK": "1",
        "BENTOML_HOME": str(world.folder / "bentoml"),
        "BENTOML_CONFIG_OPTIONS": "api_server.logging.access.enabled=false",
    }  # fmt: skip
    path = {"plain FastAPI": "/docs", "BentoML": "/readyz", "LitServe": "/health"}[name]
    with _server(commands[name], environment, int(port), path) as url:
        yield f"{url}/rank"


def all_of(world: Installed, stack: ExitStack) -> dict[str, str]:
    """URLs of ours and of every peer that can be started, by name."""
    names = PEERS if world.peers else PEERS[:1]
    return {"ours": stack.enter_context(ours(world))} | {name: stack.enter_context(peer(name, world)) for name in names}


def measured(command: Sequence[str], core: int) -> dict[str, float]:
    """What a module of the benchmark prints as JSON, run on a core."""
    ended = subprocess.run(pinned(core, sys.executable, "-m", *command), check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def pinned(core: int, *command: str) -> list[str]:
    return ["taskset", "-c", str(core), *command]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def _server(command: list[str], environment: dict[str, str], port: int, path: str) -> Iterator[str]:
    """A server process on core 0, once it answers."""
    process = subprocess.Popen(pinned(SERVER_CORE, *command), env={**os.environ, **environment}, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url + path):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # whatever workers it has left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=1.0).status_code == 200
    except httpx2.TransportError:
        return False
