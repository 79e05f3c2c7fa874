"""Many commands at once: what they do, what is refused, and what a connection that breaks or is interrupted leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from offline.publish.bulk import Bulk
from offline.publish.connection import Store, StoreError, open_store


@contextmanager
def client(url: str, retries: int) -> Iterator[redis.Redis]:
    opened = redis.Redis.from_url(url, socket_timeout=5.0, retry=Retry(NoBackoff(), retries))
    yield opened
    opened.close()


def keys_of(store: Store, count: int) -> list[str]:
    return [store.keys.user_profile(f"zoë {at}") for at in range(count)]


def values_of(store: Store, keys: list[str]) -> list[bytes | None]:
    values: Any = store.redis.mget(keys)
    return list(values)


@pytest.mark.parametrize("until", [None, 4_000_000_000])
def test_what_is_set_is_held_until_then(store: Store, until: int | None) -> None:
    keys = keys_of(store, 2500)
    blobs = [b"\r\n" * (at % 100) + b"%d" % at for at in range(2500)]
    with Bulk(store.redis) as many:
        many.set(keys, blobs, until)
        assert many.get(keys) == blobs
        assert many.lengths(keys) == [len(blob) for blob in blobs]
        assert many.ask([("EXPIRETIME", key) for key in keys[:3]]) == [-1 if until is None else until] * 3
    assert values_of(store, keys) == blobs


def test_only_what_is_new_is_set(store: Store) -> None:
    keys = keys_of(store, 3)
    store.redis.set(keys[1], b"old")
    with Bulk(store.redis) as many:
        assert many.set_new(keys, [b"new"] * 3) == [True, False, True]
        assert many.get(keys) == [b"new", b"old", b"new"]


def test_of_nothing_nothing_is_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Bulk, "exchange")
    with Bulk(store.redis) as many:
        many.set([], [])
        assert (many.get([]), many.ask([]), many.lengths([]), many.set_new([], [])) == ([], [], [], [])


def test_a_refused_command_is_raised_and_the_others_are_done(store: Store) -> None:
    keys = keys_of(store, 3)
    store.redis.lpush(keys[1], b"no string")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"), Bulk(store.redis) as many:
        many.ask([("APPEND", key, b"x") for key in keys])
    assert [store.redis.get(keys[at]) for at in (0, 2)] == [b"x", b"x"]


@pytest.mark.own_valkey
def test_a_full_redis_is_told_in_one_line(store: Store, tmp_path: Path) -> None:
    keys = keys_of(store, 3)
    store.redis.config_set("maxmemory", 1)
    try:
        with (
            pytest.raises(StoreError, match=r"Redis at unix://.* refuses: .*used memory > 'maxmemory'"),
            open_store(tmp_path, "small") as opened,
            Bulk(opened.redis) as many,
        ):
            many.set(keys, [b"x"] * 3)
    finally:
        store.redis.config_set("maxmemory", 0)
    assert values_of(store, keys) == [None] * 3


@pytest.mark.own_valkey
def test_a_lost_connection_is_opened_again_if_the_client_is_made_so(store: Store, publish_valkey: str) -> None:
    keys = keys_of(store, 3)

    def write(many: Bulk) -> None:
        for value in (b"1", b"2"):
            store.redis.client_kill_filter(_type="normal", skipme=True)
            many.set(keys, [value] * 3)
            store.redis.client_kill_filter(_type="normal", skipme=True)
            assert many.get(keys) == [value] * 3

    with client(publish_valkey, retries=1) as patient, Bulk(patient) as many:
        write(many)
    with client(publish_valkey, retries=0) as impatient, pytest.raises(redis.ConnectionError), Bulk(impatient) as many:
        write(many)


def interrupted(*_: object) -> bytes:
    raise KeyboardInterrupt


def test_after_an_interruption_nobody_gets_replies_of_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Bulk, "_reply", interrupted)
        with pytest.raises(KeyboardInterrupt), Bulk(store.redis) as many:
            many.get(keys_of(store, 3))
    assert store.redis.echo("mine") == b"mine"


def test_chunks_come_with_their_values(store: Store) -> None:
    keys = keys_of(store, 6)
    parts = [("a", keys[:2]), ("none", []), ("b", keys[2:4]), ("c", keys[4:]), ("a again", keys[:2])]
    read = []
    with Bulk(store.redis) as many:
        for name, part in parts:
            read.append((name, part, many.get(part)))
            many.set(part, [b"x"] * len(part))
    assert read == [(name, part, [None] * len(part)) for name, part in parts[:-1]] + [("a again", keys[:2], [b"x"] * 2)]
    assert values_of(store, keys) == [b"x"] * 6


def test_after_a_refusal_the_connection_is_used_on(store: Store) -> None:
    def refused() -> None:
        with Bulk(store.redis) as many:
            many.ask([("NO",), ("PING",), ("NO",)])

    with pytest.raises(redis.ResponseError, match="unknown command"):
        refused()
    assert store.redis.echo("mine") == b"mine"
