"""Closed-loop load: each connection sends its next request when the last one is answered.

usage: python -m bench.serving.closed URL BODIES.jsonl CONNECTIONS SECONDS -> one line of JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop


class Caller(asyncio.Protocol):
    """One connection. Responses must carry their length."""

    def __init__(self, requests: list[bytes], first: int, until: float) -> None:
        self._requests = cycle(requests[first:] + requests[:first])
        self._until = until
        self._buffer = b""
        self._sent = 0.0
        self.latencies: list[float] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        fields = self._buffer[:head].lower()
        at = fields.index(b"content-length:") + 15
        length = int(fields[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < head + 4 + length:
            return
        self.latencies.append(time.perf_counter() - self._sent)
        self.errors += not fields.startswith(b"http/1.1 200")
        self._buffer = self._buffer[head + 4 + length :]
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._until:
            self.errors += 1
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))


async def load(url: str, bodies: list[bytes], connections: int, seconds: float) -> dict[str, float]:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    callers = []
    for at in range(connections):
        first = at * len(requests) // connections
        _, caller = await loop.create_connection(
            lambda first=first: Caller(requests, first, start + seconds),  # type: ignore[misc]
            str(parts.hostname),
            parts.port or 80,
        )
        callers.append(caller)
    await asyncio.gather(*(one.done for one in callers))
    taken = np.concatenate([one.latencies for one in callers]) * 1000
    return {
        "requests_per_second": len(taken) / (time.perf_counter() - start),
        "errors": sum(one.errors for one in callers),
        **{f"p{at:g}": float(np.percentile(taken, at)) for at in (50, 99)},
    }


if __name__ == "__main__":
    lines = Path(sys.argv[2]).read_bytes().splitlines()
    print(json.dumps(uvloop.run(load(sys.argv[1], lines, int(sys.argv[3]), float(sys.argv[4])))))
