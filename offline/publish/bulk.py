"""Many commands at once: chunks of records go to Redis, and come from it, as pipelines over one connection of redis-py.

The connection is used without redis-py's ``Pipeline``, which takes half as long again (research/LOG.md, 2026-11-29). On
a Redis Cluster this is the place where a chunk would be parted by node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

RedisCommand = tuple[str | bytes | int, ...]


class Bulk:
    """One connection of a client's pool, for one thread.

    A command that Redis refuses raises redis-py's error for it; the others of its chunk are done. If the connection
    breaks and the client is made to try again, it is opened again and the chunk is sent once more; so only commands
    that may be repeated are for this. A connection with replies to come never returns to the pool.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None

    def __enter__(self) -> Bulk:
        self._connection = self._pool.get_connection()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._connection.disconnect()
        self._pool.release(self._connection)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of the keys."""
        return list(self.ask([("MGET", *keys)])[0]) if keys else []

    def lengths(self, keys: Sequence[str]) -> list[int]:
        """Bytes of the values of the keys."""
        return self.ask([("STRLEN", key) for key in keys])

    def set_new(self, keys: Sequence[str], blobs: Sequence[bytes]) -> list[bool]:
        """Set the keys that hold nothing, for good; whether each was set."""
        replies = self.ask([("SET", key, blob, "NX") for key, blob in zip(keys, blobs, strict=True)])
        return [reply is not None for reply in replies]

    def set(self, keys: Sequence[str], blobs: Sequence[bytes], until: int | None = None) -> None:
        """Set the keys, until ``until`` (unix s) or for good."""
        # PXAT because Redis turns every other form of an expiry into this one for its append-only file.
        expiry: RedisCommand = () if until is None else ("PXAT", until * 1000)
        self.ask([("SET", key, blob, *expiry) for key, blob in zip(keys, blobs, strict=True)])

    def ask(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """The reply to each command."""
        if not commands:
            return []
        replies = self._connection.retry.call_with_retry(
            lambda: self.exchange(commands), lambda _: self._connection.disconnect()
        )
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
        return list(replies)

    def exchange(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """The reply to each command, refusals as exceptions."""
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        return [self._reply() for _ in commands]

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.ResponseError as refusal:
            return refusal
