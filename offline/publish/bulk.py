"""Many commands at once: chunks of records go to Redis, and come from it, without redis-py's pipeline.

A pipeline of redis-py costs several times the processor time of this one (docs/experiments.md). redis-py connects,
authenticates and retries; the commands are put together here, and replies are read from its socket. On a Redis Cluster
this is the place where a chunk would be parted by node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import hiredis
import redis
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

_READ_BYTES = 1 << 18
_MORE = object()

T = TypeVar("T")


class _Sizes(dict[int, bytes]):
    """What stands before an argument of so many bytes, made once for each length."""

    def __missing__(self, size: int) -> bytes:
        self[size] = made = b"\r\n$%d\r\n" % size
        return made


class Bulk:
    """One connection of a client's pool, for one thread. Everything that was sent is answered when the context ends,
    also when it ends in an error: nothing may be written later than what the next command finds.

    A command that Redis refuses raises redis-py's error for it; of the others in its chunk, all are done. A connection
    that breaks is opened again and the chunk is sent once more, as often as the client's settings say; so only
    commands that may be repeated are for this. A connection with replies still to come never returns to the pool.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._commands, self._wanted = b"", 0
        self._under_way = False
        self._sizes = _Sizes()

    def __enter__(self) -> Bulk:
        self._connection = self._pool.get_connection()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.settle()
            else:
                with suppress(RedisError):  # the error that is on its way says more
                    self.settle()
        finally:
            self._pool.release(self._connection)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """What the keys hold."""
        return list(self.ask([("MGET", *keys)])[0]) if keys else []

    def ask(self, commands: Sequence[tuple[bytes | str | int, ...]]) -> list[Any]:
        """The reply to each command."""
        return self._answers(b"".join([hiredis.pack_command(one) for one in commands]), len(commands))  # type: ignore[arg-type]

    def lengths(self, keys: Sequence[str]) -> list[int]:
        """How many bytes the keys hold."""
        names = list(map(str.encode, keys))
        return self._answers(
            b"".join([b"*2\r\n$6\r\nSTRLEN\r\n$%d\r\n%b\r\n" % (len(one), one) for one in names]), len(names)
        )

    def set_new(self, keys: Sequence[str], blobs: Sequence[bytes]) -> list[bool]:
        """Let the keys hold these values for good, unless they hold something; whether they do now."""
        replies = self._answers(self._sets(b"*4", keys, blobs, b"\r\n$2\r\nNX\r\n"), len(keys))
        return [reply is not None for reply in replies]

    def set(self, keys: Sequence[str], blobs: Sequence[bytes], until: int | None = None) -> None:
        """Let the keys hold these values until ``until`` (unix s), or for good. Redis does it while the caller goes on:
        a refusal is raised by the next command or by the end of the context."""
        if until is None:
            commands = self._sets(b"*3", keys, blobs, b"\r\n")
        else:
            # PXAT because Redis turns every other form of an expiry into this one for its append-only file.
            at = b"%d" % (until * 1000)
            commands = self._sets(b"*5", keys, blobs, b"\r\n$4\r\nPXAT\r\n$%d\r\n%b\r\n" % (len(at), at))
        if keys:
            self.send(commands, len(keys))

    def _sets(self, words: bytes, keys: Sequence[str], blobs: Sequence[bytes], tail: bytes) -> bytes:
        # By hand: hiredis.pack_command takes three times as long, most of it for looking at each argument's type.
        head, sizes = words + b"\r\n$3\r\nSET", self._sizes
        pieces: list[bytes] = []
        for key, blob in zip(map(str.encode, keys), blobs, strict=True):
            pieces += (head, sizes[len(key)], key, sizes[len(blob)], blob, tail)
        return b"".join(pieces)

    def _answers(self, commands: bytes, count: int) -> list[Any]:
        if not count:
            return []
        self.send(commands, count)
        return self.settle()

    def send(self, commands: bytes, count: int) -> None:
        """Send so many packed commands, once those before are answered."""
        self.settle()
        self._commands, self._wanted = commands, count
        self._attempt(self._transmit)

    def settle(self) -> list[Any]:
        """Wait until all that was sent is answered, and return the replies."""
        if not self._wanted:
            return []
        replies = self._attempt(self._receive)
        self._wanted, self._under_way = 0, False
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    def _attempt(self, act: Callable[[], T]) -> T:
        try:
            done: T = self._connection.retry.call_with_retry(act, self._break)
        except BaseException:
            self._break()
            self._wanted = 0
            raise
        return done

    def _break(self, error: Exception | None = None) -> None:
        self._under_way = False
        self._connection.disconnect()

    def _transmit(self) -> None:
        if not self._under_way:
            self._connection.send_packed_command([self._commands])
            self._under_way = True

    def _receive(self) -> list[Any]:
        self._transmit()  # again, if the connection broke since
        reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_MORE
        )
        source = self._connection._sock  # there is no public way to it
        replies: list[Any] = []
        while len(replies) < self._wanted or reader.has_data():
            reply: Any = reader.gets()
            if reply is _MORE:
                reader.feed(_read(source))
            elif isinstance(reply, RedisConnectionError):  # the server is there, and yet it is not: it loads its data
                raise reply
            elif not isinstance(reply, hiredis.PushNotification):
                replies.append(reply)
        if len(replies) > self._wanted:
            raise InvalidResponse("more replies than commands")
        return replies


def _read(source: Any) -> bytes:
    try:
        data: bytes = source.recv(_READ_BYTES)
    except TimeoutError as error:
        raise RedisTimeoutError("Timeout reading from socket") from error
    except OSError as error:
        raise RedisConnectionError(f"Error while reading from socket: {error}") from error
    if not data:
        raise RedisConnectionError("Connection closed by server.")
    return data
