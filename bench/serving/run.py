"""Ours, plain FastAPI and the bare model side by side, in alternating order, on pinned cores.

The server has core 0; Redis and the load have core 1. usage: python -m bench.serving.run [--rounds 5] [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import redis

from bench.serving.installed import COUNTS, lay_out
from bench.serving.world import World, publish_world
from models.contract.keys import Keys
from models.embedded import embedded_redis
from offline.publish.connection import Store

SERVER_CORE, LOAD_CORE = 0, 1
KINDS = ("top50", "all")


def pinned(core: int, *command: str) -> list[str]:
    return ["taskset", "-c", str(core), *command]


@contextmanager
def server(command: list[str], environment: dict[str, str], port: int, path: str) -> Iterator[str]:
    """A server process on core 0, once it answers."""
    process = subprocess.Popen(pinned(SERVER_CORE, *command), env={**os.environ, **environment})
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(url + path):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=1.0).status_code == 200
    except httpx2.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def measured(command: list[str], core: int) -> dict[str, float]:
    ended = subprocess.run(pinned(core, sys.executable, "-m", *command), check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def compare(
    world: World, rounds: int, seconds: float, connections: int
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Results by case ("500 top50") and server."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        url = stack.enter_context(embedded_redis(folder / "valkey"))
        client = stack.enter_context(redis.Redis.from_url(url))
        info: Any = client.info("server")
        os.sched_setaffinity(int(info["process_id"]), {LOAD_CORE})
        for name in ("artifacts", "plain"):
            (folder / name).mkdir()
        store = Store(client, Keys("lorank"), folder / "artifacts", url)
        publish_world(world, store, folder / "jobs")
        asyncio.run(lay_out(world, store, url, folder / "plain"))
        servers = {}
        port = free_port()
        ours = {
            "LORANK_REDIS_URL": url, "LORANK_ARTIFACTS": str(store.artifacts), "LORANK_PORT": str(port),
            "LORANK_DEFAULT_DEADLINE_MS": "5000",
        }  # fmt: skip
        started = server([sys.executable, "-m", "service"], ours, port, "/readyz")
        servers["ours"] = stack.enter_context(started) + "/v1/rank"
        port = free_port()
        plain = [sys.executable, "-m", "uvicorn", "bench.serving.plain:app", "--port", str(port), "--no-access-log"]
        plain += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
        started = server(plain, {"PLAIN": str(folder / "plain"), "PLAIN_REDIS": url}, port, "/docs")
        servers["plain FastAPI"] = stack.enter_context(started) + "/rank"
        found: dict[str, dict[str, list[dict[str, float]]]] = {}
        for number in range(rounds):
            for count in COUNTS:
                names = [*servers, "bare"]
                for name in names if number % 2 == 0 else reversed(names):
                    if name == "bare":
                        one = measured(
                            ["bench.serving.bare", str(folder / "plain"), str(count), str(seconds)], SERVER_CORE
                        )
                        for kind in KINDS:
                            found.setdefault(f"{count} {kind}", {}).setdefault(name, []).append(one)
                        continue
                    for kind in KINDS:
                        bodies = str(folder / "plain" / f"bodies-{count}-{kind}.jsonl")
                        one = measured(
                            ["bench.serving.closed", servers[name], bodies, str(connections), str(seconds)], LOAD_CORE
                        )
                        assert not one["errors"], (name, one)
                        found.setdefault(f"{count} {kind}", {}).setdefault(name, []).append(one)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--architecture", choices=["lifelong", "din"], default="lifelong")
    wanted = parser.parse_args()
    world = World(architecture=wanted.architecture)
    found = compare(world, wanted.rounds, wanted.seconds, wanted.connections)
    for case, results in found.items():
        bare = [one["requests_per_second"] for one in results["bare"]]
        for name, each in results.items():
            rates = [one["requests_per_second"] for one in each]
            ratios = [rate / there for rate, there in zip(rates, bare, strict=True)]
            p99 = f"p99 {statistics.median(one['p99'] for one in each):6.2f} ms" if "p99" in each[0] else ""
            print(
                f"{case:10} {name:14} {statistics.median(rates):8.1f}/s ({min(rates):.0f} to {max(rates):.0f})  "
                f"{statistics.median(ratios):.2f} of bare ({min(ratios):.2f} to {max(ratios):.2f})  {p99}"
            )


if __name__ == "__main__":
    main()
