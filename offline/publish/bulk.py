"""Many commands at once: chunks of records go to Redis, and come from it, without redis-py's pipeline.

A pipeline of redis-py costs several times the processor time of this one (research/LOG.md). redis-py connects,
authenticates and retries; the commands are put together here, and replies are read from its socket. On a Redis Cluster
this is the place where a chunk would be parted by node.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import hiredis
import redis
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

_READ_BYTES = 1 << 18
_SEND_BYTES = 1 << 20
"""Several chunks: what does not fit there is waited for, while the next chunk could be packed."""
_MORE = object()
_UNDER_WAY = 3
"""How many calls may be unanswered. With a chunk that is written and one that is read, Redis never waits for us."""

T = TypeVar("T")


class _Sizes(dict[int, bytes]):
    """What stands before an argument of so many bytes, made once for each length."""

    def __missing__(self, size: int) -> bytes:
        self[size] = made = b"\r\n$%d\r\n" % size
        return made


@dataclass(eq=False, slots=True)
class Sent:
    """Packed commands that were sent together, and their replies once they are here."""

    commands: bytes
    count: int
    under_way: bool = False
    replies: list[Any] | None = None


class Bulk:
    """One connection of a client's pool, for one thread. Everything that was sent is answered when the context ends,
    also when it ends in an error: nothing may be written later than what the next command finds.

    A command that Redis refuses raises redis-py's error for it; of the others in its chunk, all are done. If the
    connection breaks and the client is made to try again, it is opened again and what is unanswered is sent once more;
    so only commands that may be repeated are for this. A connection with replies to come never returns to the pool.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._sent: deque[Sent] = deque()
        self._reader = _new_reader()
        self._sizes = _Sizes()

    def __enter__(self) -> Bulk:
        self._connection = self._pool.get_connection()
        ours = self._connection._sock
        if ours.family == socket.AF_UNIX:  # TCP finds out by itself how much it should hold
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            try:
                while self._sent:
                    with suppress(RedisError):  # the error that is on its way says more
                        self._answer_oldest()
            finally:
                self._pool.release(self._connection)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """What the keys hold."""
        return list(self._answers(_mget(keys), 1)[0]) if keys else []

    def get_ahead(
        self, chunks: Iterable[tuple[T, Sequence[str]]]
    ) -> Iterator[tuple[T, Sequence[str], list[bytes | None]]]:
        """Each chunk (anything, keys) with what its keys hold. The keys of a chunk are asked for before the chunk ahead
        of it is handed out: what is written of one chunk is not seen by the next."""
        ahead: deque[tuple[T, Sequence[str], Sent | None]] = deque()
        for chunk, keys in chunks:
            ahead.append((chunk, keys, self.send(_mget(keys), 1) if keys else None))
            if len(ahead) > 1:
                yield self._with_held(*ahead.popleft())
        while ahead:
            yield self._with_held(*ahead.popleft())

    def _with_held(
        self, chunk: T, keys: Sequence[str], sent: Sent | None
    ) -> tuple[T, Sequence[str], list[bytes | None]]:
        return chunk, keys, [] if sent is None else list(self.replies_to(sent)[0])

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
        return self.replies_to(self.send(commands, count)) if count else []

    def send(self, commands: bytes, count: int) -> Sent:
        """Send so many packed commands, whether or not those before are answered."""
        while len(self._sent) >= _UNDER_WAY:
            self._answer_oldest()
        one = Sent(commands, count)
        self._sent.append(one)
        self._attempt(self._transmit)
        return one

    def replies_to(self, one: Sent) -> list[Any]:
        """Wait for them."""
        while one.replies is None:
            self._answer_oldest()
        return one.replies

    def settle(self) -> None:
        """Wait until all that was sent is answered."""
        while self._sent:
            self._answer_oldest()

    def _answer_oldest(self) -> None:
        replies = self._attempt(self._receive)
        self._sent.popleft().replies = replies
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply

    def _attempt(self, act: Callable[[], T]) -> T:
        try:
            done: T = self._connection.retry.call_with_retry(act, self._break)
        except BaseException:
            self._break()
            self._sent.clear()
            raise
        return done

    def _break(self, error: Exception | None = None) -> None:
        for one in self._sent:
            one.under_way = False
        self._connection.disconnect()
        self._reader = _new_reader()

    def _transmit(self) -> None:
        for one in self._sent:
            if not one.under_way:
                # A health check would read a reply that is ours.
                self._connection.send_packed_command([one.commands], check_health=False)
                one.under_way = True

    def _receive(self) -> list[Any]:
        self._transmit()  # again, if the connection broke since
        source = self._connection._sock  # there is no public way to it
        replies: list[Any] = []
        while len(replies) < self._sent[0].count:
            reply: Any = self._reader.gets()
            if reply is _MORE:
                self._reader.feed(_read(source))
            elif isinstance(reply, RedisConnectionError):  # the server is there, and yet it is not: it loads its data
                raise reply
            elif not isinstance(reply, hiredis.PushNotification):
                replies.append(reply)
        if len(self._sent) == 1 and self._reader.has_data():
            raise InvalidResponse("more replies than commands")
        return replies


def _mget(keys: Sequence[str]) -> bytes:
    packed: bytes = hiredis.pack_command(("MGET", *keys))  # type: ignore[arg-type]  # its stub knows one argument
    return packed


def _new_reader() -> hiredis.Reader:
    return hiredis.Reader(protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_MORE)


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
