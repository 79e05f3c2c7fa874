"""A connection to Redis that carries pipelines: commands out, as many replies in.

Redis' protocol is spoken here by hand, because of its price: a round trip of four reads takes 23 us of processor time,
a pipeline of redis-py 101 us (docs/decisions/0020-redis-clients.md; ``bench/micro.py`` measures it), which would be the
largest part of a small request. redis-py connects, authenticates and selects the database, with TLS where the URL asks
for it. Then its transport is taken over (``_writer``, to which there is no public way).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

Command = tuple[bytes | str | int | float, ...]

CLOSE_SECONDS = 1.0
"""Longest time that the event loop may take to close an aborted socket: one turn, unless it is very busy."""


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
    words, _, _ = text.partition(", with args beginning with")  # which are a user's
    return _ERRORS.get(text.partition(" ")[0], ResponseError)(words)
