"""Which Redis URLs the service starts with, and what a server may do to a connection: over a socket and over TLS."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from redis.asyncio.connection import ConnectionPool

from service.app import create_app
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis import RedisLink, check_url
from service.settings import Settings, SettingsError
from tests.service.fake_redis import server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's context with a certificate of its own making."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1)
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        certificate.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_connections_with_tls(certificate: ssl.SSLContext) -> None:
    async with server(lambda command: b"$100000\r\n" + b"x" * 100_000 + b"\r\n", certificate) as port:
        link = RedisLink(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none&ssl_check_hostname=false", 1)
        for _ in range(3):
            assert await link.round_trip([("GET", "a")] * 3, Deadline(10)) == [b"x" * 100_000] * 3
        await link.close()


async def test_replies_come_in_order_and_refusals_in_their_place() -> None:
    def answer(command: list[bytes]) -> bytes:
        return b"-WRONGTYPE no\r\n" if command[1] == b"bad" else b"$%d\r\n%b\r\n" % (len(command[1]), command[1])

    async with server(answer) as port:
        link = RedisLink(f"redis://:secret@127.0.0.1:{port}/3", 2)
        first, refusal, last = await link.round_trip([("GET", "a"), ("GET", "bad"), ("GET", "c")], Deadline(10))
        assert (first, str(refusal), last) == (b"a", "WRONGTYPE no", b"c")
        both = await asyncio.gather(*(link.round_trip([("GET", f"k{at}")], Deadline(10)) for at in range(20)))
        assert both == [[f"k{at}".encode()] for at in range(20)]
        assert len(link._connections) <= 2
        await link.close()


def clients(store: redis.Redis) -> set[str]:
    store.ping()  # a connection whose end Redis sees together with a command is still listed for that command
    clients: Any = store.client_list()
    return {client["id"] for client in clients}


@pytest.mark.own_valkey
async def test_no_connection_is_left_when_the_link_is_closed(valkey: str) -> None:
    """A client that stops leaves nothing behind that Redis would still count among its clients."""
    with redis.Redis.from_url(valkey) as other:
        before = clients(other)
        link = RedisLink(valkey, 4)
        await asyncio.gather(*(link.round_trip([("GET", "a")], Deadline(10)) for _ in range(8)))
        ours = clients(other) - before
        assert len(ours) == 4
        await link.close()
        assert not ours & clients(other)


@pytest.mark.parametrize("reply", [b"", b"what?\r\n"])
async def test_a_connection_that_breaks_is_replaced(reply: bytes) -> None:
    replies = [b"+1\r\n", reply, b"+2\r\n"]
    async with server(lambda command: replies.pop(0)) as port:
        link = RedisLink(f"redis://127.0.0.1:{port}", 1)
        assert await link.round_trip([("GET", "a")], Deadline(10)) == [b"1"]
        with pytest.raises(RedisUnavailable):
            await link.round_trip([("GET", "a")], Deadline(10))
        assert len(link._connections) == 0
        assert await link.round_trip([("GET", "a")], Deadline(10)) == [b"2"]
        await link.close()


async def test_one_reply_too_many_ends_the_connection() -> None:
    """Otherwise everybody would get the reply before theirs."""
    async with server(lambda command: b"$1\r\n%b\r\n" % command[1] * (2 if command[1] == b"a" else 1)) as port:
        link = RedisLink(f"redis://127.0.0.1:{port}", 1)
        for value in (b"a", b"b", b"a", b"c"):
            assert await link.round_trip([("GET", value)], Deadline(10)) == [value]
            await asyncio.sleep(0.02)
        await link.close()


async def test_a_server_that_loads_its_data_is_not_there() -> None:
    async with server(lambda command: b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        link = RedisLink(f"redis://127.0.0.1:{port}", 1)
        with pytest.raises(RedisUnavailable, match="LOADING"):
            await link.round_trip([("GET", "a")], Deadline(10))
        await link.close()
        with pytest.raises(RedisUnavailable, match="closed"):
            await link.round_trip([("GET", "a")], Deadline(10))


async def test_connections_to_a_server_that_is_no_primary_any_more_are_closed() -> None:
    """All that are kept: the name that they were made by leads to another server now."""
    primary = True

    def answer(command: list[bytes]) -> bytes:
        return b"+OK\r\n" if primary else b"-READONLY You can't write against a read only replica.\r\n"

    async with server(answer) as port:
        link = RedisLink(f"redis://127.0.0.1:{port}", 3)
        await asyncio.gather(*(link.round_trip([("SET", "a", "b")], Deadline(10)) for _ in range(3)))
        assert len(link._free) == 3
        primary = False
        with pytest.raises(RedisUnavailable, match="READONLY"):
            await link.round_trip([("SET", "a", "b")], Deadline(10))
        assert (link._free, link._connections) == ([], set())
        primary = True
        assert await link.round_trip([("SET", "a", "b")], Deadline(10)) == [b"OK"]
        await link.close()


async def test_after_a_refusal_it_is_not_asked_again_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.redis.FIRST_PAUSE_SECONDS", 0.2)
    async with server(lambda command: b"+OK\r\n") as port:
        pass
    link = RedisLink(f"redis://127.0.0.1:{port}", 3)
    with pytest.raises(RedisUnavailable, match="Connect"):
        await link.round_trip([("GET", "a")], Deadline(10))
    with pytest.raises(RedisUnavailable, match="a moment ago"):
        await link.round_trip([("GET", "a")], Deadline(10))
    await asyncio.sleep(0.25)
    with pytest.raises(RedisUnavailable, match="Connect"):
        await link.round_trip([("GET", "a")], Deadline(10))
    assert link._pause == 0.4
    await link.close()


async def test_replies_are_those_of_resp2_whatever_the_url_says(valkey: str, store: redis.Redis) -> None:
    store.hset("h", "a", "b")
    link = RedisLink(f"{valkey}?protocol=3", 1)
    assert await link.round_trip([("HGETALL", "h")], Deadline(10)) == [[b"a", b"b"]]
    await link.close()


async def test_a_connection_that_was_closed_while_it_was_idle_is_not_used() -> None:
    replies = [b"+1\r\n", b"+2\r\n"]
    async with server(lambda command: replies.pop(0)) as port:
        link = RedisLink(f"redis://127.0.0.1:{port}", 1)
        await link.round_trip([("GET", "a")], Deadline(10))
        (connection,) = link._connections
        connection._transport.abort()
        await asyncio.sleep(0.05)
        assert await link.round_trip([("GET", "a")], Deadline(10)) == [b"2"]
        assert len(link._connections) == 1
        await link.close()


async def test_redis_py_has_the_transport_where_it_is_taken_from(valkey: str) -> None:
    """A private attribute of redis-py: another version may have it elsewhere."""
    connection: Any = ConnectionPool.from_url(valkey).make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()
    assert isinstance(connection._writer.transport, asyncio.Transport)
    assert callable(connection._writer.transport.set_protocol)
    await connection.disconnect()


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://h:6379/0", "redis://user:p%40ss@h:1/15?socket_keepalive=yes", "redis://[::1]:6379",
        "rediss://h", "unix:///run/valkey.sock", "unix:///run/valkey.sock?db=2",
        "redis+cluster://h", "rediss+cluster://user:p%40ss@h:1,h2,[::1]:7?socket_keepalive=yes", "redis+cluster://h/0",
        "redis+sentinel://h/main", "redis+sentinel://:secret@h:1,h2:2/main/3?sentinel_password=other",
    ],
)  # fmt: skip
def test_urls_that_can_be_used(url: str) -> None:
    check_url(url)
    create_app(Settings(redis_url=url))


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:abc", "redis://h:99999", "redis://[::1", "redis://h/cache", "redis://h/0/1", "redis://h?db=first",
        "redis://h?colour=red", "unix://", "rediss://h?ssl_cert_reqs=perhaps",
        "redis+cluster://", "redis+cluster://h/3", "redis+cluster://h?db=1", "redis+cluster://h,:1", "redis+cluster://h:0",
        "redis+cluster://h?colour=red", "redis+sentinel://h", "redis+sentinel://h/main/0/1", "redis+sentinel://h/main/x",
    ],
)  # fmt: skip
def test_urls_that_cannot_be_used_stop_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="LORANK_REDIS_URL"):
        create_app(Settings(redis_url=url))
