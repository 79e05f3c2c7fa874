"""One asynchronous Redis client per process, and the one way of using it within a deadline.

A command that is cancelled or times out half-way must never leave its connection to others: the next caller would read
the previous caller's reply (redis-py #2624, #2665). Such a connection is closed, whatever the exception; the tests of
this package inject cancellations to prove that it stays so, and every packed record names its owner as the second line
of defence.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.errors import RedisUnavailable
from service.features.wire import Command, Wire
from service.ranking.deadline import Deadline

__all__ = ["Command", "RedisLink", "is_usable_url", "replies_to"]


class RedisLink:
    """A lazy client: nothing is sent until it is used."""

    def __init__(self, url: str, connections: int) -> None:
        """``connections`` round trips run at once; others wait for their turn within their deadline.

        The waiting is done by a semaphore, not by redis-py's BlockingConnectionPool: on Python 3.11 a waiter that
        is notified and cancelled at once takes the notification with it (cpython gh-112202), and the others wait
        for a connection that is free.

        No retries and no socket timeout: time comes from each caller's deadline, and a retry could exceed it.
        RESP2, because RESP3 adds a round trip to every new connection and nothing here needs it.
        """
        self._turn = asyncio.Semaphore(connections)
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url, retry=Retry(NoBackoff(), 0), socket_timeout=None, socket_connect_timeout=2.0
        )
        self._pool.connection_kwargs["protocol"] = 2  # whatever the URL says: replies are read as RESP2's
        self._wires: set[Wire] = set()
        self._free: list[Wire] = []
        self._closed = False

    @property
    def open_connections(self) -> int:
        """How many there are, busy or not."""
        return len(self._wires)

    async def round_trip(self, commands: Sequence[Command], deadline: Deadline) -> list[Any]:
        """Replies to ``commands``, sent as one pipeline. RedisUnavailable if they are not all here in time.

        A command that Redis refused has its exception in place of a reply.
        """
        if not commands:
            return []
        if deadline.spent or self._closed:
            raise RedisUnavailable("no time left" if deadline.spent else "the connection is closed")
        try:
            async with asyncio.timeout(deadline.remaining()), self._turn:
                wire = await self._wire()
                try:
                    replies = await wire.exchange(commands)
                except BaseException:
                    self._wires.discard(wire)
                    await wire.close()
                    raise
                self._free.append(wire)
                return replies
        except TimeoutError as error:
            raise RedisUnavailable("Redis gave no answer in time") from error
        except (OSError, RedisError) as error:
            raise RedisUnavailable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close every connection. What is asked afterwards is not answered."""
        self._closed = True
        self._free.clear()
        while self._wires:
            await self._wires.pop().close()

    async def _wire(self) -> Wire:
        """The connection that was used last, which most likely still stands, or a new one."""
        while self._free:
            wire = self._free.pop()
            if wire.usable:
                return wire
            self._wires.discard(wire)
            await wire.close()
        wire = await Wire.opened(self._pool)
        if self._closed:  # meanwhile
            await wire.close()
            raise RedisUnavailable("the connection is closed")
        self._wires.add(wire)
        return wire


def is_usable_url(url: str) -> bool:
    """Whether a client can be made from ``url``. Nothing is connected to.

    redis-py itself ignores a database that is no number, and finds an unknown option only when it connects.
    """
    try:
        parts = urlsplit(url)
        pool: ConnectionPool = ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError):
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    return re.fullmatch(r"/?|/\d+", parts.path) is not None


async def replies_to(link: RedisLink, commands: Sequence[Command], deadline: Deadline) -> list[Any]:
    """As ``RedisLink.round_trip``, but a single refused command is RedisUnavailable too."""
    replies = await link.round_trip(commands, deadline)
    for reply in replies:
        if isinstance(reply, Exception):
            raise RedisUnavailable(f"{type(reply).__name__}: {reply}") from reply
    return replies
