"""Which Redis the jobs talk to: LORANK_REDIS_URL, or the embedded server of the data folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from models.contract.keys import Keys
from models.embedded import embedded_redis


class StoreError(RuntimeError):
    """Redis cannot be reached, or holds something the jobs must not touch."""


@dataclass(frozen=True, slots=True)
class Store:
    """A Redis connection, the keys in it, and the folder of artifacts that goes with it."""

    redis: redis.Redis
    keys: Keys
    artifacts: Path
    url: str


@contextmanager
def open_store(data_dir: Path) -> Iterator[Store]:
    """The store of the environment: the service's LORANK_REDIS_URL, LORANK_KEY_PREFIX and LORANK_ARTIFACTS apply."""
    url = os.environ.get("LORANK_REDIS_URL")
    if url:
        with _connected(url, data_dir) as store:
            yield store
        return
    with embedded_redis(data_dir / "valkey") as embedded, _connected(embedded, data_dir) as store:
        yield store


@contextmanager
def _connected(url: str, data_dir: Path) -> Iterator[Store]:
    client = redis.Redis.from_url(url, socket_timeout=30.0)
    try:
        client.ping()
        yield Store(
            client,
            Keys(os.environ.get("LORANK_KEY_PREFIX", "lorank")),
            Path(os.environ.get("LORANK_ARTIFACTS") or data_dir / "artifacts"),
            url,
        )
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreError(f"Redis at {url} does not answer: {error}") from error
    finally:
        client.close()
