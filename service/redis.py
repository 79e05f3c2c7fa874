"""Redis for the service: commands out, replies in, within a deadline.

A command that is cancelled or times out half-way must never leave its connection to others: the next caller would read
the previous caller's reply (redis-py #2624, #2665). Such a connection is closed, whatever the exception; the tests of
this package inject cancellations to prove that it stays so, and every packed record names its owner as the second line
of defence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from models.redis_address import CLUSTER_REMEDY, RedisAddress
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis_connection import Command, NoPrimaryError, PipelinedConnection

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
"""Pauses between attempts to connect, after one that failed: each is twice as long as the one before."""

CONNECT_SECONDS = 2.0
"""How long a connection may take to be made."""


class RedisPort(Protocol):
    """The Redis of a service, whatever it consists of."""

    @property
    def in_order(self) -> bool:
        """Whether the commands of a round trip are done in their order, whatever their keys."""

    async def round_trip(
        self, commands: Sequence[Command], deadline: Deadline, may_be_stale: bool = False
    ) -> list[Any]:
        """Replies to ``commands``, sent as pipelines. RedisUnavailable if none is here in time.

        A command that was refused has its exception in place of a reply, and so has one whose server gave none, where
        others did: RedisUnavailable. ``may_be_stale``: reads, which a replica may answer that lags behind its primary.
        Others may be sent again if their server is lost: only commands that may be repeated are for this.
        """

    async def close(self) -> None:
        """Close every connection. Later round trips are RedisUnavailable."""


class RedisLink:
    """A lazy client of one server, one per process: nothing is sent until it is used. The server is the one of the URL,
    or the primary that Sentinel names at the time of each new connection."""

    in_order = True

    def __init__(self, url: str, connections: int) -> None:
        """``connections`` round trips run at once; others wait for their turn within their deadline.

        The waiting is done by a semaphore, not by redis-py's BlockingConnectionPool: on Python 3.11 a waiter that
        is notified and cancelled at once takes the notification with it (cpython gh-112202), and the others wait
        for a connection that is free.
        """
        self._turn = asyncio.Semaphore(connections)
        self._pool = _pool(RedisAddress.parse(url))
        self._connections: set[PipelinedConnection] = set()
        self._free: list[PipelinedConnection] = []
        self._closed = False
        self._pause, self._dial_at = 0.0, 0.0

    async def round_trip(
        self, commands: Sequence[Command], deadline: Deadline, may_be_stale: bool = False
    ) -> list[Any]:
        """See the port. There is one server, so RedisUnavailable if not all replies are here in time."""
        if not commands:
            return []
        if deadline.spent or self._closed:
            raise RedisUnavailable("no time left" if deadline.spent else "the connection is closed")
        try:
            async with asyncio.timeout(deadline.remaining()), self._turn:
                connection = await self._connection()
                try:
                    replies = await connection.exchange(commands)
                except NoPrimaryError:
                    self._free.append(connection)
                    await self._drop_free()  # they lead to the same server
                    raise
                except BaseException:
                    self._connections.discard(connection)
                    await connection.close()
                    raise
                self._free.append(connection)
                return replies
        except TimeoutError as error:
            raise RedisUnavailable("Redis gave no answer in time") from error
        except (OSError, RedisError) as error:
            raise RedisUnavailable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        self._free.clear()
        while self._connections:
            await self._connections.pop().close()
        if isinstance(self._pool, SentinelConnectionPool):
            await self._pool.sentinel_manager.aclose()

    async def _connection(self) -> PipelinedConnection:
        """The connection that was used last, which most likely still stands, or a new one."""
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
            self._connections.discard(connection)
            await connection.close()
        connection = await self._dialled()
        if self._closed:  # meanwhile
            await connection.close()
            raise RedisUnavailable("the connection is closed")
        self._connections.add(connection)
        return connection

    async def _dialled(self) -> PipelinedConnection:
        """A new connection. RedisUnavailable at once for a while after an attempt that failed: whoever cannot have one
        must neither wait for it nor keep a server busy that comes back."""
        now = time.monotonic()
        if now < self._dial_at:
            raise RedisUnavailable("Redis could not be reached a moment ago")
        try:
            connection = await PipelinedConnection.opened(self._pool)
        except (OSError, RedisError):
            self._pause = min(LONGEST_PAUSE_SECONDS, 2.0 * self._pause or FIRST_PAUSE_SECONDS)
            self._dial_at = time.monotonic() + self._pause
            raise
        self._pause = 0.0
        return connection

    async def _drop_free(self) -> None:
        while self._free:
            connection = self._free.pop()
            self._connections.discard(connection)
            await connection.close()


def _pool(address: RedisAddress) -> ConnectionPool:
    """What makes connections; it holds none.

    No retries and no socket timeout: time comes from each caller's deadline, and a retry could exceed it.
    RESP2, because RESP3 adds a round trip to every new connection and nothing here needs it.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0), "socket_timeout": None, "socket_connect_timeout": CONNECT_SECONDS,
    }  # fmt: skip
    pool: ConnectionPool
    if address.form == "sentinel":
        own = {"retry": Retry(NoBackoff(), 0), **address.sentinel_options()}
        watch = Sentinel(list(address.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
        pool = SentinelConnectionPool(address.name, watch, **options | address.options())  # type: ignore[no-untyped-call]
    else:
        pool = ConnectionPool.from_url(address.url, **options)
    pool.connection_kwargs["protocol"] = 2  # whatever the URL says: replies are read as RESP2's
    return pool


def check_url(url: str) -> None:
    """ValueError, with the reason, for a URL of which no client can be made. Nothing is connected to."""
    pool = _pool(RedisAddress.parse(url))
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ValueError(f"an option behind the ? is none of redis-py's: {error}") from error
    except (ValueError, RedisError) as error:
        raise ValueError("its options are not understood") from error


async def replies_to(port: RedisPort, commands: Sequence[Command], deadline: Deadline) -> list[Any]:
    """As ``RedisPort.round_trip``, but a single refused command is RedisUnavailable too."""
    replies = await port.round_trip(commands, deadline)
    for reply in replies:
        if isinstance(reply, Exception):
            # A cluster's port follows MOVED itself.
            remedy = f"; {CLUSTER_REMEDY}" if str(reply).startswith(("MOVED ", "CROSSSLOT ")) else ""
            raise RedisUnavailable(f"{type(reply).__name__}: {reply}{remedy}") from reply
    return replies
