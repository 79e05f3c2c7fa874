"""Many commands at once: chunks of records go to Redis, and come from it, as pipelines over connections of redis-py.

These are used without redis-py's ``Pipeline``, which takes half as long again (research/LOG.md, 2026-11-29). On a
cluster a chunk is parted by node, and what a node refuses, because slots move or it is no primary any more, is done
again by redis-py's cluster client, command by command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.exceptions import AskError, ClusterDownError, TryAgainError

RedisCommand = tuple[str | bytes | int, ...]

_MOVING = (AskError, TryAgainError, ClusterDownError)
"""Refusals, MOVED among them, of a node that cannot do a command, where the cluster can."""


class Bulk:
    """A connection of a client's pool, and of a cluster one for each node that is needed, for one thread.

    A command has one key, its first argument, or the third of a script. One that Redis refuses raises redis-py's error
    for it; the others of its chunk are done. If a connection breaks and the client is made to try again, it is opened
    again and the chunk is sent once more; so only commands that may be repeated are for this. A connection with replies
    to come never returns to the pool.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client
        self._is_cluster = isinstance(client, redis.RedisCluster)
        self._connections: dict[Any, Any] = {}

    def __enter__(self) -> Bulk:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._release(disconnect=kind is not None)

    def get(self, keys: Sequence[str | bytes]) -> list[bytes | None]:
        if not keys:
            return []
        if not self._is_cluster:
            return list(self.ask([("MGET", *keys)])[0])
        replies = self._replies([("GET", key) for key in keys])
        return self._checked([None if _is_wrong_type(reply) else reply for reply in replies])  # as MGET has it

    def lengths(self, keys: Sequence[str]) -> list[int]:
        """Bytes of the values of the keys."""
        return self.ask([("STRLEN", key) for key in keys])

    def set_new(self, keys: Sequence[str], blobs: Sequence[bytes]) -> list[bool]:
        """Set the keys that hold nothing, for good; whether each was set."""
        replies = self.ask([("SET", key, blob, "NX") for key, blob in zip(keys, blobs, strict=True)])
        return [reply is not None for reply in replies]

    def set(self, keys: Sequence[str], blobs: Sequence[bytes], until: int | Sequence[int] | None = None) -> None:
        """Set the keys, until ``until`` (unix s, of all or of each) or for good."""
        # PXAT because Redis turns every other form of an expiry into this one for its append-only file.
        if until is None or isinstance(until, int):
            expiry: RedisCommand = () if until is None else ("PXAT", until * 1000)
            self.ask([("SET", key, blob, *expiry) for key, blob in zip(keys, blobs, strict=True)])
        else:
            ends = zip(keys, blobs, until, strict=True)
            self.ask([("SET", key, blob, "PXAT", end * 1000) for key, blob, end in ends])

    def delete(self, keys: Sequence[str | bytes]) -> None:
        self.ask([("DEL", key) for key in keys])

    def ask(self, commands: Sequence[RedisCommand]) -> list[Any]:
        return self._checked(self._replies(commands)) if commands else []

    def exchange(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """The reply to each command, refusals as exceptions."""
        replies: list[Any] = [None] * len(commands)
        parts = [(self._connection(pool), places) for pool, places in self._parts(commands).items()]
        for connection, places in parts:
            connection.send_packed_command(connection.pack_commands([commands[place] for place in places]))
        for connection, places in parts:
            for place in places:
                replies[place] = self._reply(connection)
        return replies

    def _replies(self, commands: Sequence[RedisCommand]) -> list[Any]:
        if not self._is_cluster:
            connection = self._connection(self._client.connection_pool)
            replies: list[Any] = connection.retry.call_with_retry(
                lambda: self.exchange(commands), lambda _: connection.disconnect()
            )
            return replies
        try:
            replies = self.exchange(commands)
        except (redis.ConnectionError, redis.TimeoutError):
            self._release(disconnect=True)
            return [self._again(command) for command in commands]
        return [
            self._again(command) if isinstance(reply, _MOVING) else reply
            for command, reply in zip(commands, replies, strict=True)
        ]

    def _again(self, command: RedisCommand) -> Any:
        """The reply, or the refusal, by the client itself, which follows slots and waits for a new primary."""
        try:
            return self._client.execute_command(*command)
        except redis.ResponseError as refusal:
            return refusal

    def _parts(self, commands: Sequence[RedisCommand]) -> Mapping[Any, Sequence[int]]:
        """Places of the commands by the pool of the node that they are for."""
        client = self._client
        if not self._is_cluster:
            return {client.connection_pool: range(len(commands))}
        parts: dict[Any, list[int]] = {}
        for place, command in enumerate(commands):
            slot = client.keyslot(command[3 if command[0] == "EVAL" else 1])
            node = client.nodes_manager.get_node_from_slot(slot)
            parts.setdefault(client.get_redis_connection(node).connection_pool, []).append(place)
        return parts

    def _connection(self, pool: Any) -> Any:
        if pool not in self._connections:
            self._connections[pool] = pool.get_connection()
        return self._connections[pool]

    def _release(self, *, disconnect: bool) -> None:
        while self._connections:
            pool, connection = self._connections.popitem()
            if disconnect:
                connection.disconnect()
            pool.release(connection)

    def _reply(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except redis.ResponseError as refusal:
            return refusal

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
        return replies


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, redis.ResponseError) and str(reply).startswith("WRONGTYPE")
