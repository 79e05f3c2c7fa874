"""Open-loop load, as wrk2's: requests arrive at a fixed rate, whether or not earlier ones were answered.

usage: python -m bench.serving.arrivals URL BODIES.jsonl RATE SECONDS [--arrivals constant] [--latencies FILE.npy]
       -> one line of JSON

A request that finds no free connection waits for one, and its latency counts from the moment at which it was to be
sent. A server that stalls is therefore charged for all who would have come meanwhile ("coordinated omission"). The
generator's own lateness, from that moment to the sending where a connection was free, is reported beside it: a tail of
that length is the generator's. SIGTERM ends it early.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import uvloop

from bench.serving.protocol import Connection, address, requests_of
from bench.serving.timer import Timer

Spacing = Literal["poisson", "constant"]

PERCENTILES = (50, 90, 99, 99.9)
ANSWER_SECONDS = 10.0
"""How long the last requests may take; those that are not answered by then have failed."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Of each request: ``due``, seconds from ``start`` (``time.perf_counter``, the same clock in all processes);
    ``latency`` and ``lag`` in seconds; whether it was answered ``well``. What was never answered has an infinite
    latency; what had to wait for a connection has no lag (nan)."""

    start: float
    due: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    lag: npt.NDArray[np.float64]
    well: npt.NDArray[np.bool_]


class Generator:
    """Sends each request when it is due, on the connection that was free last."""

    def __init__(self, requests: Sequence[bytes], due: npt.NDArray[np.float64]) -> None:
        count = len(due)
        self._requests = requests
        self._due = due.tolist()
        self._waiting: deque[int] = deque()
        self._free: list[Sender] = []
        self._next = 0
        self._left = count
        self._start = 0.0
        self._latency = np.full(count, np.inf)
        self._lag = np.full(count, np.nan)
        self._well = np.zeros(count, np.bool_)
        self._done = asyncio.Event()

    async def run(self, host: str, port: int, connections: int) -> Arrived:
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, sender = await loop.create_connection(lambda: Sender(self), host, port)
            self._free.append(sender)
        self._start = time.perf_counter() + 0.05
        last = self._due[-1] if self._due else 0.0
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        with Timer.calling(self._send_what_is_due) as self._timer:
            self._timer.set(self._start)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), last + ANSWER_SECONDS)
        for sender in self._free:
            sender.transport.close()
        sent = slice(self._next)
        return Arrived(self._start, np.asarray(self._due), self._latency[sent], self._lag[sent], self._well[sent])

    def stop(self) -> None:
        """Send no more."""
        self._left -= len(self._due) - self._next
        self._due = self._due[: self._next]
        if self._left == 0:
            self._done.set()

    def _send_what_is_due(self) -> None:
        now = time.perf_counter() - self._start
        while self._next < len(self._due) and self._due[self._next] <= now:
            if self._free:
                self._lag[self._next] = now - self._due[self._next]
                self._send(self._free.pop(), self._next)
                now = time.perf_counter() - self._start
            else:
                self._waiting.append(self._next)
            self._next += 1
        if self._next < len(self._due):
            self._timer.set(self._start + self._due[self._next])

    def _send(self, sender: Sender, number: int) -> None:
        sender.number = number
        sender.send(self._requests[number % len(self._requests)])

    def answered(self, sender: Sender, well: bool) -> None:
        number = sender.number
        self._latency[number] = time.perf_counter() - self._start - self._due[number]
        self._well[number] = well
        sender.number = None
        if self._waiting:
            self._send(sender, self._waiting.popleft())
        else:
            self._free.append(sender)
        self._one_less()

    def lost(self, sender: Sender) -> None:
        """A connection that breaks takes its request with it, which has failed; the others share the load."""
        if sender in self._free:
            self._free.remove(sender)
        if sender.number is not None:
            self._one_less()

    def _one_less(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.set()


class Sender(Connection):
    """A connection of the pool. ``number`` is that of its request under way."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self._generator = generator
        self.number: Any = None

    def answered(self, well: bool) -> None:
        self._generator.answered(self, well)

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.lost(self)


def due_at(rate: float, seconds: float, spacing: Spacing, seed: int) -> npt.NDArray[np.float64]:
    """Times of requests: ``rate`` x ``seconds`` of them, evenly, or with the random gaps of independent callers."""
    count = round(rate * seconds)
    if spacing == "constant":
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


async def arriving(url: str, bodies: Sequence[bytes], due: npt.NDArray[np.float64], connections: int = 64) -> Arrived:
    """Send a request at each of the times ``due``, and wait for the answers."""
    host, port = address(url)
    return await Generator(requests_of(url, bodies), due).run(host, port, connections)


def summary(arrived: Arrived) -> dict[str, Any]:
    """Milliseconds, and counts. ``waited``: requests that found no free connection."""
    latency, lag = arrived.latency * 1000, arrived.lag[~np.isnan(arrived.lag)] * 1000
    answered = latency[np.isfinite(latency)]
    if not len(answered):
        raise RuntimeError("no request was answered")
    return {
        **{f"p{at:g}": float(np.percentile(answered, at)) for at in PERCENTILES},
        "max": float(answered.max()),
        "requests": len(latency),
        "failed": int((~arrived.well).sum()),
        "waited": int(np.isnan(arrived.lag).sum()),
        "lag": {f"p{at:g}": float(np.percentile(lag, at)) for at in PERCENTILES} | {"max": float(lag.max())},
        "start": arrived.start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--arrivals", choices=["poisson", "constant"], default="poisson")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latencies", type=Path, help="where to write [due, latency, well] of each request, seconds")
    arguments = parser.parse_args()
    due = due_at(arguments.rate, arguments.seconds, arguments.arrivals, arguments.seed)
    arrived = uvloop.run(
        arriving(arguments.url, arguments.bodies.read_bytes().splitlines(), due, arguments.connections)
    )
    if arguments.latencies:
        np.save(arguments.latencies, np.stack([arrived.due, arrived.latency, arrived.well], axis=1))
    print(json.dumps(summary(arrived)))


if __name__ == "__main__":
    main()
