"""Which Redis the jobs talk to: LORANK_REDIS_URL, or the embedded server of the data folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import redis

from models.contract.keys import Keys
from models.valkey.embedded import embedded_redis


class StoreError(RuntimeError):
    """Redis cannot be reached, refuses a command, or holds something the jobs must not touch."""


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


@contextmanager
def open_store(data_dir: Path) -> Iterator[Store]:
    """The store of the environment: the service's LORANK_REDIS_URL, LORANK_KEY_PREFIX and LORANK_ARTIFACTS apply."""
    url = os.environ.get("LORANK_REDIS_URL")
    server = nullcontext(url) if url else embedded_redis(data_dir / "valkey")
    with server as address, _connected(address, data_dir) as store:
        yield store


@contextmanager
def store_if_there(data_dir: Path) -> Iterator[Store | None]:
    """The store, unless nothing was ever published to an embedded one: looking must not make it."""
    if os.environ.get("LORANK_REDIS_URL") or (data_dir / "valkey").is_dir():
        with open_store(data_dir) as store:
            yield store
    else:
        yield None


@contextmanager
def _connected(url: str, data_dir: Path) -> Iterator[Store]:
    try:
        client = redis.Redis.from_url(url, socket_timeout=30.0)
    except ValueError as error:
        raise StoreError(f"LORANK_REDIS_URL is not a Redis URL: {error}") from error
    try:
        keys = Keys(os.environ.get("LORANK_KEY_PREFIX") or "lorank")
    except ValueError as error:
        raise StoreError(f"LORANK_KEY_PREFIX: {error}") from error
    try:
        client.ping()
        artifacts = Path(os.environ.get("LORANK_ARTIFACTS") or data_dir / "artifacts")
        yield Store(client, keys, artifacts, redacted(url))
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreError(f"Redis at {redacted(url)} does not answer: {error}") from error
    except redis.RedisError as error:  # out of memory, read-only after a failover, no permission
        raise StoreError(f"Redis at {redacted(url)} refuses: {error}") from error
    finally:
        client.close()
