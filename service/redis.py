"""Redis for the service: commands out, replies in, within a deadline.

Redis' protocol is spoken here by hand, because of its price: a round trip of four reads takes 22 us of processor time,
one of redis-py's pipelines 99 us (research/LOG.md, 2026-11-22; ``bench/micro.py`` measures it), which would be the
largest part of a small request. redis-py connects, authenticates and selects the database, with TLS where the URL asks
for it. Then its transport is taken over (``_writer``, to which there is no public way).

A command that is cancelled or times out half-way must never leave its connection to others: the next caller would read
the previous caller's reply (redis-py #2624, #2665). Such a connection is closed, whatever the exception; the tests of
this package inject cancellations to prove that it stays so, and every packed record names its owner as the second line
of defence.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline

Command = tuple[bytes | str | int | float, ...]

CLOSE_SECONDS = 1.0
"""Longest time that the event loop may take to close an aborted socket: one turn, unless it is very busy."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
"""Pauses between attempts to connect, after one that failed: each is twice as long as the one before."""


class NoPrimaryError(RedisConnectionError):
    """The server takes no writes: it was a primary when the connection was made, and is a replica now. Whoever connects
    anew asks the name again, and reaches the new primary."""


_ERRORS: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,  # a ConnectionError: the server is there, and yet it is not
    "READONLY": NoPrimaryError,
    "MASTERDOWN": NoPrimaryError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
}


class RedisLink:
    """A lazy client, one per process: nothing is sent until it is used."""

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
        self._connections: set[PipelinedConnection] = set()
        self._free: list[PipelinedConnection] = []
        self._closed = False
        self._pause, self._dial_at = 0.0, 0.0

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
        """Close every connection. Later round trips are RedisUnavailable."""
        self._closed = True
        self._free.clear()
        while self._connections:
            await self._connections.pop().close()

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


class PipelinedConnection(asyncio.Protocol):
    """An open connection, for one round trip at a time. After one that was interrupted it has to be closed."""

    def __init__(self, connection: AbstractConnection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_refusal)
        self._expected = 0
        self._replies: list[Any] = []
        self._answered: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._closed = asyncio.Event()

    @classmethod
    async def opened(cls, pool: ConnectionPool) -> PipelinedConnection:
        """A new connection, as the pool's URL asks for it. OSError or RedisError if there is none to be had."""
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        transport = connection._writer.transport
        pipelined = cls(connection, transport)
        transport.set_protocol(pipelined)
        return pipelined

    @property
    def usable(self) -> bool:
        return self._lost is None and self._answered is None

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """One reply for each command, refusals as exceptions. Redis' ConnectionError if the connection breaks."""
        if self._lost is not None:
            raise self._lost
        self._answered = asyncio.get_running_loop().create_future()
        self._expected, self._replies = len(commands), []
        self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))  # type: ignore[arg-type]
        await self._answered
        self._answered = None
        for reply in self._replies:
            if isinstance(reply, RedisConnectionError):
                raise reply
        return self._replies

    async def close(self) -> None:
        """Close the connection, without waiting for what is under way. The socket is closed when this returns: whether
        anybody is connected decides whether an embedded server may stop."""
        self._transport.abort()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), CLOSE_SECONDS)
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if len(self._replies) == self._expected:
                    # It would be taken for the answer to the next command, and every later one for another's.
                    raise InvalidResponse("more replies than commands")
                self._replies.append(reply)
                if len(self._replies) == self._expected and self._answered is not None and not self._answered.done():
                    self._answered.set_result(None)
        except InvalidResponse as error:
            self._break(error)
            self._transport.abort()

    def eof_received(self) -> None:
        """Closes the transport, as None says."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(RedisConnectionError("the connection was closed" if exc is None else str(exc)))
        self._closed.set()

    def _break(self, error: Exception) -> None:
        self._lost = self._lost or error
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(self._lost)


def _refusal(text: str) -> RedisError:
    return _ERRORS.get(text.partition(" ")[0], ResponseError)(text)


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
