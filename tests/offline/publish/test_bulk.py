"""Many commands at once: what they do, what is refused, and what a connection that breaks or is interrupted leaves."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse
from redis.retry import Retry

from offline.publish import bulk
from offline.publish.bulk import Bulk
from offline.publish.connection import Store, StoreError, open_store


@contextmanager
def client(url: str, retries: int) -> Iterator[redis.Redis]:
    opened = redis.Redis.from_url(url, socket_timeout=5.0, retry=Retry(NoBackoff(), retries))
    yield opened
    opened.close()


def keys_of(store: Store, count: int) -> list[str]:
    return [store.keys.user_profile(f"zoë {at}") for at in range(count)]


def held(store: Store, keys: list[str]) -> list[bytes | None]:
    found: Any = store.redis.mget(keys)
    return list(found)


@pytest.mark.parametrize("until", [None, 4_000_000_000])
def test_what_is_set_is_held_until_then(store: Store, until: int | None) -> None:
    keys = keys_of(store, 2500)
    blobs = [b"\r\n" * (at % 100) + b"%d" % at for at in range(2500)]
    with Bulk(store.redis) as many:
        many.set(keys, blobs, until)
        assert many.get(keys) == blobs
        assert many.lengths(keys) == [len(one) for one in blobs]
        assert many.ask([("EXPIRETIME", key) for key in keys[:3]]) == [-1 if until is None else until] * 3
    assert held(store, keys) == blobs


def test_only_what_is_new_is_set(store: Store) -> None:
    keys = keys_of(store, 3)
    store.redis.set(keys[1], b"old")
    with Bulk(store.redis) as many:
        assert many.set_new(keys, [b"new"] * 3) == [True, False, True]
        assert many.get(keys) == [b"new", b"old", b"new"]


def test_of_nothing_nothing_is_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Bulk, "send")
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
            open_store(tmp_path) as opened,
            Bulk(opened.redis) as many,
        ):
            many.set(keys, [b"x"] * 3)
    finally:
        store.redis.config_set("maxmemory", 0)
    assert held(store, keys) == [None] * 3


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


def test_replies_are_read_from_a_socket_that_may_fail() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        with pytest.raises(redis.TimeoutError):
            bulk._read(ours)
        theirs.close()
        with pytest.raises(redis.ConnectionError, match="closed by server"):
            bulk._read(ours)
        ours.close()
        with pytest.raises(redis.ConnectionError, match="Error while reading"):
            bulk._read(ours)


def interrupted(*_: object) -> bytes:
    raise KeyboardInterrupt


def test_after_an_interruption_nobody_gets_replies_of_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt), Bulk(store.redis) as many:
            many.get(keys_of(store, 3))
    assert store.redis.echo("mine") == b"mine"


def test_what_was_sent_is_done_when_the_caller_fails(store: Store) -> None:
    keys = keys_of(store, 900)

    def fail() -> None:
        with Bulk(store.redis) as many:
            many.set(keys, [b"x" * 1000] * 900)
            interrupted()

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert held(store, keys) == [b"x" * 1000] * 900


def test_the_callers_error_is_told_and_not_the_refusal_behind_it(store: Store) -> None:
    def fail() -> None:
        with Bulk(store.redis) as many:
            many.send(b"*1\r\n$2\r\nNO\r\n", 1)
            interrupted()

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store.redis.echo("mine") == b"mine"


def test_a_reply_too_many_is_an_error(store: Store) -> None:
    with pytest.raises(InvalidResponse, match="more replies than commands"), Bulk(store.redis) as many:
        many.send(b"*1\r\n$4\r\nPING\r\n" * 2, 1)
    assert store.redis.echo("mine") == b"mine"


def test_keys_are_asked_for_a_chunk_ahead(store: Store) -> None:
    keys = keys_of(store, 6)
    parts = [("a", keys[:2]), ("none", []), ("b", keys[2:4]), ("c", keys[4:]), ("a again", keys[:2])]
    found = []
    with Bulk(store.redis) as many:
        for name, part, values in many.get_ahead(parts):
            found.append((name, list(part), values))
            many.set(part, [b"x"] * len(part))
    assert found == [(name, part, [None] * len(part)) for name, part in parts[:-1]] + [
        ("a again", keys[:2], [b"x"] * 2)
    ]
    assert held(store, keys) == [b"x"] * 6


@pytest.mark.own_valkey
def test_what_is_unanswered_is_sent_again(store: Store, publish_valkey: str) -> None:
    keys = keys_of(store, 4)
    with client(publish_valkey, retries=1) as patient, Bulk(patient) as many:
        for at, (one, part, _) in enumerate(many.get_ahead((one, keys) for one in (b"1", b"2", b"3", b"4"))):
            many.set(part, [one] * 4)
            if at % 2:
                store.redis.client_kill_filter(_type="normal", skipme=True)
    assert held(store, keys) == [b"4"] * 4


def test_after_a_refusal_the_rest_is_still_answered(store: Store) -> None:
    refused = b"*1\r\n$2\r\nNO\r\n"

    def fail() -> None:
        with Bulk(store.redis) as many:
            for _ in range(3):
                many.send(refused, 1)

    with pytest.raises(redis.ResponseError, match="unknown command"):
        fail()
    assert store.redis.echo("mine") == b"mine"
