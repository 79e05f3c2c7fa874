"""Closed-loop load: each connection sends its next request when the last one is answered.

usage: python -m bench.serving.closed URL BODIES.jsonl CONNECTIONS SECONDS [PID] -> one line of JSON

Half a second of the same load goes before and is not counted. With the PID of the server, its processor time is
counted too.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import uvloop

from bench.serving.processes import cpu_seconds
from bench.serving.protocol import Connection, address, requests_of

WARM_SECONDS = 0.5


class Caller(Connection):
    """A connection: requests from the ``first`` on, until the time ``until``; what is answered counts from ``since``
    on."""

    def __init__(self, requests: Sequence[bytes], first: int, since: float, until: float) -> None:
        super().__init__()
        self._requests = cycle([*requests[first:], *requests[:first]])
        self._since = since
        self._until = until
        self._sent = 0.0
        self.latencies: list[float] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        self._sent = time.perf_counter()
        self.send(next(self._requests))

    def answered(self, well: bool) -> None:
        now = time.perf_counter()
        if now >= self._since:
            self.latencies.append(now - self._sent)
        self.errors += not well
        if now < self._until:
            self.begin()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._until:
            self.errors += 1
        if not self.done.done():
            self.done.set_result(None)


async def load(
    url: str, bodies: list[bytes], connections: int, seconds: float, pid: int | None = None
) -> dict[str, float]:
    """Requests per second, failed ones, milliseconds p50 and p99, and, of the server ``pid``, processor milliseconds
    per request."""
    requests, (host, port) = requests_of(url, bodies), address(url)
    loop = asyncio.get_running_loop()
    since = time.perf_counter() + WARM_SECONDS
    callers = []
    for at in range(connections):
        first = at * len(requests) // connections
        _, caller = await loop.create_connection(
            lambda first=first: Caller(requests, first, since, since + seconds),  # type: ignore[misc]
            host,
            port,
        )
        callers.append(caller)
        caller.begin()
    await asyncio.sleep(since - time.perf_counter())
    before, start = 0.0 if pid is None else cpu_seconds(pid), time.perf_counter()
    counted = sum(len(caller.latencies) for caller in callers)
    await asyncio.wait([caller.done for caller in callers], timeout=seconds)
    after, taken = 0.0 if pid is None else cpu_seconds(pid), time.perf_counter() - start
    counted = sum(len(caller.latencies) for caller in callers) - counted
    await asyncio.gather(*(caller.done for caller in callers))
    latencies = np.concatenate([caller.latencies for caller in callers]) * 1000
    numbers = {
        "requests_per_second": counted / taken,
        "errors": sum(caller.errors for caller in callers),
        **{f"p{at:g}": float(np.percentile(latencies, at)) for at in (50, 99)},
    }
    if pid is not None:
        numbers["cpu_ms"] = (after - before) / counted * 1000
        numbers["cpu_share"] = (after - before) / taken
    return numbers


def main() -> None:
    url, bodies, connections, seconds, *pid = sys.argv[1:]
    lines = Path(bodies).read_bytes().splitlines()
    print(json.dumps(uvloop.run(load(url, lines, int(connections), float(seconds), int(pid[0]) if pid else None))))


if __name__ == "__main__":
    main()
