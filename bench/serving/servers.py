"""Servers in front of a world: ours, and what others would write, on the same Redis.

Servers have core 0; Redis and the load have core 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.installed import LOAD_CORE, SERVER_CORE, Installed
from bench.serving.processes import resume, tree

PEERS = ("plain FastAPI", "BentoML", "LitServe")
CONNECTIONS = 4
START_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: ``url`` of its ranking route, ``pid`` of the first of its processes, ``ready_seconds`` from its
    start until it answered that it is ready."""

    url: str
    pid: int
    ready_seconds: float

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])


@contextmanager
def ours(
    world: Installed,
    settings: Mapping[str, str] | None = None,
    cores: Sequence[int] = (SERVER_CORE,),
    code: Path | None = None,
) -> Iterator[Server]:
    """The service, or that of other ``code``. ``settings`` are values of ``LORANK_*`` variables by name."""
    port = free_port()
    chosen = {
        "redis_url": world.url, "artifacts": str(world.store.artifacts), "key_prefix": world.store.keys.prefix,
        "port": str(port),
        "data_dir": str(world.folder / "data"), "default_deadline_ms": "5000", "log_level": "warning",
        **(settings or {}),
    }  # fmt: skip
    environment = {f"LORANK_{name.upper()}": value for name, value in chosen.items()}
    with started([sys.executable, "-m", "service"], environment, port, "/readyz", "/v1/rank", cores, code) as server:
        yield server


@contextmanager
def peer(name: str, world: Installed, python: Path) -> Iterator[Server]:
    """A server of ``PEERS``; ``python`` is that of their environment."""
    port = free_port()
    commands = {
        "plain FastAPI": uvicorn("bench.serving.plain:app", port),
        "BentoML": [str(python), "-m", "bentoml", "serve", "bench.serving.peers.bento:Plain", "--port", str(port)],
        "LitServe": [str(python), "-m", "bench.serving.peers.lit", str(port)],
    }
    environment = {
        "PLAIN": str(world.folder / "plain"), "PLAIN_REDIS": world.url, "PYTHONPATH": os.getcwd(),
        "BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(world.folder / "bentoml"),
    }  # fmt: skip
    path = {"plain FastAPI": "/docs", "BentoML": "/readyz", "LitServe": "/health"}[name]
    with started(commands[name], environment, port, path, "/rank") as server:
        yield server


def uvicorn(app: str, port: int) -> list[str]:
    """The command that serves an application as fast as uvicorn can."""
    options = ["--port", str(port), "--no-access-log", "--loop", "uvloop", "--http", "httptools"]
    return [sys.executable, "-m", "uvicorn", app, *options, "--log-level", "warning"]


def json_of(command: Sequence[str], core: int = LOAD_CORE) -> dict[str, Any]:
    """The JSON that a module of the benchmark prints, run on a core."""
    ended = subprocess.run(pinned((core,), sys.executable, "-m", *command), check=True, stdout=subprocess.PIPE)
    numbers: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return numbers


def closed(server: Server, bodies: Path, seconds: float, connections: int = CONNECTIONS) -> dict[str, Any]:
    """Closed-loop load: see bench/serving/closed.py. RuntimeError if a request failed."""
    command = ["bench.serving.closed", server.url, str(bodies), str(connections), str(seconds), str(server.pid)]
    numbers = json_of(command)
    if numbers["errors"]:
        raise RuntimeError(f"{server.url} failed {numbers['errors']} requests of {bodies.name}")
    return numbers


def bare(folder: Path, feeds: str, seconds: float) -> dict[str, Any]:
    """Requests per second of the model in ``folder`` alone: see bench/serving/bare.py."""
    return json_of(["bench.serving.bare", str(folder), feeds, str(seconds)], SERVER_CORE)


def pinned(cores: Sequence[int], *command: str) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def free_port() -> int:
    with socket.socket() as socket_:
        socket_.bind(("127.0.0.1", 0))
        return int(socket_.getsockname()[1])


@contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    ready: str,
    route: str,
    cores: Sequence[int] = (SERVER_CORE,),
    folder: Path | None = None,
) -> Iterator[Server]:
    """A server process, once it answers at the path ``ready``. RuntimeError if it ends before, or takes too long."""
    start = time.perf_counter()
    where = {**os.environ, **environment} | ({} if folder is None else {"PYTHONPATH": str(folder)})
    process = subprocess.Popen(pinned(cores, *command), env=where, cwd=folder, start_new_session=True)
    try:
        while get(port, ready) is None:
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
            if time.perf_counter() > start + START_SECONDS:
                raise RuntimeError(f"{' '.join(command)} is not ready after {START_SECONDS:.0f} s")
            time.sleep(0.02)
        yield Server(f"http://127.0.0.1:{port}{route}", process.pid, time.perf_counter() - start)
    finally:
        _end(process)


def get(port: int, path: str) -> bytes | None:
    """The body of an answer with status 200, or None."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 2.0) as connection:
            connection.settimeout(5.0)
            connection.sendall(request)
            while part := connection.recv(65536):
                answer += part
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.startswith(b"HTTP/1.1 200") else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server, paused or not, with whatever workers it leaves behind."""
    everyone = tree(process.pid)
    resume(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for worker in everyone[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
