"""The jobs' Redis, LORANK_REDIS_URL or an embedded server in the data folder, and there what is a configuration's own;
and many commands at once: chunks of records go to it, and come from it, as pipelines over one connection of redis-py.

That connection is used without redis-py's ``Pipeline``, which takes half as long again (research/LOG.md, 2026-11-29).
On a Redis Cluster this is the place where a chunk would be parted by node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from models.contract.keys import Keys
from models.contract.prefixes import FORMER_PREFIX, own_folder, prefix_of
from models.valkey.embedded import embedded_redis, holds_data

RedisCommand = tuple[str | bytes | int, ...]


class StoreError(RuntimeError):
    """Redis cannot be reached, refuses a command, or holds something the jobs must not touch."""


class UnreachableError(StoreError):
    """Redis does not answer, now and from here."""


@dataclass(frozen=True, slots=True)
class Store:
    """A Redis connection, the keys in it, the folder of artifacts that goes with it, and the URL without password."""

    redis: redis.Redis
    keys: Keys
    artifacts: Path
    url: str


def redacted(url: str) -> str:
    """A Redis URL as it may be shown: without its password."""
    return re.sub(r"(://[^/@]*):[^/@]*@", r"\1:***@", url)


def key_prefix(configuration: str) -> str:
    """The prefix of a configuration's keys: LORANK_KEY_PREFIX, or else the one of its name."""
    return os.environ.get("LORANK_KEY_PREFIX") or prefix_of(configuration)


@contextmanager
def open_store(data_dir: Path, configuration: str) -> Iterator[Store]:
    """The store of a configuration. LORANK_REDIS_URL, LORANK_KEY_PREFIX and LORANK_ARTIFACTS apply as to the service.

    StoreError if the configuration has nothing yet where an earlier version published for all of them, and
    LORANK_KEY_PREFIX does not say what is to become of that.
    """
    prefix, shared = key_prefix(configuration), data_dir / "valkey"
    is_by_name = not os.environ.get("LORANK_KEY_PREFIX")
    is_embedded = not os.environ.get("LORANK_REDIS_URL")
    if is_by_name and is_embedded and holds_data(shared) and not holds_data(own_folder(shared, prefix)):
        raise _left_behind(str(shared), configuration)
    with store_at(data_dir, prefix) as store:
        if is_by_name and _exists(store, Keys(FORMER_PREFIX).live) and not _exists(store, store.keys.installation):
            raise _left_behind(store.url, configuration)
        yield store


@contextmanager
def store_if_there(data_dir: Path, configuration: str) -> Iterator[Store | None]:
    """``open_store``, unless nothing was ever published to an embedded one: looking must not make it."""
    shared = data_dir / "valkey"
    is_there = holds_data(own_folder(shared, key_prefix(configuration)))
    is_left_behind = not os.environ.get("LORANK_KEY_PREFIX") and holds_data(shared)
    if os.environ.get("LORANK_REDIS_URL") or is_there or is_left_behind:
        with open_store(data_dir, configuration) as store:
            yield store
    else:
        yield None


@contextmanager
def store_at(data_dir: Path, prefix: str) -> Iterator[Store]:
    """The store under a prefix, whatever LORANK_KEY_PREFIX says. StoreError for one that cannot be."""
    try:
        keys = Keys(prefix)
    except ValueError as error:
        raise StoreError(f"LORANK_KEY_PREFIX: {error}") from error
    url = os.environ.get("LORANK_REDIS_URL")
    artifacts = Path(os.environ.get("LORANK_ARTIFACTS") or data_dir / "artifacts")
    server = nullcontext(url) if url else embedded_redis(own_folder(data_dir / "valkey", prefix))
    with server as address, _connected(address, keys, own_folder(artifacts, prefix)) as store:
        yield store


def _exists(store: Store, key: str) -> bool:
    return bool(store.redis.exists(key))


def _left_behind(place: str, configuration: str) -> StoreError:
    return StoreError(
        f"{place} holds what an earlier version published there, under the key prefix {FORMER_PREFIX}; configurations "
        f"have prefixes of their own now. Set LORANK_KEY_PREFIX={FORMER_PREFIX}, for jobs and service, to go on with "
        f"it, or LORANK_KEY_PREFIX={prefix_of(configuration)}, for one run, to begin beside it (docs/operations.md)"
    )


@contextmanager
def _connected(url: str, keys: Keys, artifacts: Path) -> Iterator[Store]:
    try:
        client = redis.Redis.from_url(url, socket_timeout=30.0)
    except ValueError as error:
        raise StoreError(f"LORANK_REDIS_URL is not a Redis URL: {error}") from error
    try:
        client.ping()
        yield Store(client, keys, artifacts, redacted(url))
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise UnreachableError(f"Redis at {redacted(url)} does not answer: {error}") from error
    except redis.RedisError as error:  # out of memory, read-only after a failover, no permission
        raise StoreError(f"Redis at {redacted(url)} refuses: {error}") from error
    finally:
        client.close()


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
