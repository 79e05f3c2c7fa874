"""Processor time of single steps of a request, the way that is used beside the plain one, alternating.

usage: .venv/bin/python bench/micro.py
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from models.contract.experiments import parse_experiments
from models.valkey.embedded import embedded_redis
from service.ab.assignment import FileExperiments
from service.api.parsing import parse_rank
from service.api.schemas import Limits
from service.ranking.deadline import Deadline
from service.redis import RedisLink
from service.redis_connection import Command

LIMITS = Limits(max_candidates=2000, default_deadline_ms=100.0, max_deadline_ms=5000.0)
ROUNDS, CALLS = 9, 300


async def print_costs(name: str, ways: dict[str, Callable[[], Awaitable[object]]]) -> None:
    """Microseconds of processor time per call: median, and smallest to largest, of alternating rounds."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, call in ways.items():
            await call()
            start = time.process_time()
            for _ in range(CALLS):
                await call()
            taken[way].append((time.process_time() - start) / CALLS * 1e6)
    for way, times in taken.items():
        print(f"{name:28} {way:10} {statistics.median(times):8.1f} us  ({min(times):.1f} to {max(times):.1f})")


async def bodies() -> None:
    for count in (1, 100, 500):
        body = {"user_id": "u1", "top_k": 50, "candidates": [{"id": f"item{at}"} for at in range(count)]}
        raw = json.dumps(body).encode()

        async def plain(raw: bytes = raw) -> object:
            return json.loads(raw)

        async def ours(raw: bytes = raw) -> object:
            return parse_rank(raw, LIMITS)

        await print_costs(f"body of {count} candidates", {"json": plain, "ours": ours})


async def round_trips(url: str) -> None:
    commands: list[Command] = [("GETRANGE", "k", -600, -1), ("GET", "k"), ("GET", "k"), ("GET", "k")]
    link, client = RedisLink(url, 16), Redis.from_url(url, protocol=2)
    await link.round_trip([("SET", "k", b"x" * 600)], Deadline(10))

    async def pipeline() -> list[Any]:
        async with client.pipeline(transaction=False) as sent:
            for command in commands:
                sent.execute_command(*command)
            return list(await sent.execute(raise_on_error=False))

    async def ours() -> list[Any]:
        return await link.round_trip(commands, Deadline(10))

    await print_costs("round trip of 4 reads", {"redis-py": pipeline, "ours": ours})
    await link.close()
    await client.aclose()


async def _assign(experiments: FileExperiments, units: list[str]) -> None:
    for unit in units:
        experiments.assign(unit, {}, 0.0)


async def assignments() -> None:
    """Per unit: 1,000 of them in one call."""
    arms = "".join(f'[[layers.experiments.arms]]\nname = "{arm}"\nweight = 1\n' for arm in "ab")
    experiment = '[[layers.experiments]]\nname = "{}"\n{}\n' + arms
    one_layer = '[[layers]]\nname = "ranking"\n' + experiment.format("knowledge-2026-11", "")
    halves = experiment.format("{0}1", "slots = [0.0, 0.5]") + experiment.format("{0}2", "slots = [0.5, 1.0]")
    two_layers = "[holdout]\nshare = 0.02\n" + "".join(
        f'[[layers]]\nname = "{x}"\n' + halves.format(x) for x in ("x", "y")
    )
    for unit in ("user-{:04}", "d4c1a3b2-6f0e-4c8e-9a55-0c1b2d3e{:04}"):
        units = [unit.format(at) for at in range(1000)]
        ways: dict[str, Callable[[], Awaitable[object]]] = {}
        for name, text in (("1 layer", one_layer), ("2 layers", two_layers)):
            ways[name] = partial(_assign, FileExperiments(parse_experiments(text.encode())), units)
        await print_costs(f"1,000 arms of {unit.format(0)[:9]}", ways)


async def main(url: str) -> None:
    await assignments()
    await bodies()
    await round_trips(url)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, embedded_redis(Path(folder)) as url:
        asyncio.run(main(url))
