"""The Redis of the jobs: that of LORANK_REDIS_URL or an embedded one, and there what is a configuration's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.exceptions import ClusterCrossSlotError, MovedError, RedisClusterException

from models.contract.keys import Keys
from models.contract.prefixes import FORMER_PREFIX, own_folder, prefix_of
from models.redis_address import CLUSTER_REMEDY, URL_FORMS, RedisAddress
from models.valkey.embedded import embedded_redis, holds_data
from offline.data.catalogue import DataLine


class StoreError(RuntimeError):
    """Redis cannot be reached, refuses a command, or holds something the jobs must not touch."""


class UnreachableError(StoreError):
    """Redis does not answer, now and from here."""


@dataclass(frozen=True, slots=True)
class Store:
    """A Redis connection, the keys in it, the folder of artifacts that goes with it, and the URL without password.

    The Redis may be a cluster (``RedisAddress.connected``): what is for several keys at once goes through ``Bulk``.
    """

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


def replay_prefix(configuration: str) -> str:
    """The prefix under which the replays of a configuration publish, and nothing else lies."""
    return f"{key_prefix(configuration)}-replay"


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
        address = RedisAddress.parse(url)
    except ValueError as error:
        raise StoreError(f"LORANK_REDIS_URL is not understood: {error}; it looks like {URL_FORMS}") from error
    try:
        with address.connected(socket_timeout=30.0) as client:
            client.exists(keys.live)
            yield Store(client, keys, artifacts, redacted(url))
    except (redis.ConnectionError, redis.TimeoutError, RedisClusterException) as error:
        raise UnreachableError(f"Redis at {redacted(url)} does not answer: {error}") from error
    except (MovedError, ClusterCrossSlotError) as error:
        raise StoreError(f"Redis at {redacted(url)} refuses: {error}; {CLUSTER_REMEDY}") from error
    except redis.RedisError as error:  # out of memory, read-only after a failover, no permission
        # of a command that it does not know Redis quotes the arguments: keys, with the ids of users
        words = f"Redis at {redacted(url)} refuses: "
        raise StoreError(DataLine(f"{words}{error}", words + str(error).partition(", with args")[0])) from error
