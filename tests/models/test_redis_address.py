"""What a Redis URL says."""

from __future__ import annotations

import pytest

from models.redis_address import RedisAddress


def test_a_cluster_is_its_nodes_and_what_they_are_told() -> None:
    address = RedisAddress.parse("rediss+cluster://user:p%40ss@a:1,b,[::1]:7?socket_keepalive=yes")
    assert (address.form, address.hosts) == ("cluster", (("a", 1), ("b", 6379), ("::1", 7)))
    assert address.at(("::2", 9)) == "rediss://user:p%40ss@[::2]:9?socket_keepalive=yes"
    assert address.options() == {"username": "user", "password": "p@ss", "socket_keepalive": True, "ssl": True}


def test_sentinels_get_their_own_password_and_not_that_of_the_primary() -> None:
    address = RedisAddress.parse("redis+sentinel://:secret@a,b:5/main/3?sentinel_password=other")
    assert (address.form, address.hosts, address.name) == ("sentinel", (("a", 26379), ("b", 5)), "main")
    assert address.options() == {"password": "secret", "db": 3}
    own = address.sentinel_options()
    assert own["password"] == "other"
    assert "db" not in own
    assert "password" not in RedisAddress.parse("redis+sentinel://:secret@a/main").sentinel_options()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+cluster://:secret@a/3", "a cluster has neither databases"),
        ("redis+cluster://:secret@a:b", "its hosts are host or host:port"),
        ("redis+sentinel://:secret@a", "the name of the primary is missing"),
        ("unix+cluster://:secret@a", "the scheme unix\\+cluster is none of redis://"),
        ("redis://:secret@a/b", "the database behind the host is no number"),
        ("redis://:secret@a:b", "its scheme, port or options"),
        ("redis://:secret@a?colour=red", "an option behind .*'colour'"),
        ("unix://", "the path of a socket"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        RedisAddress.parse(url)
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(RedisAddress("cluster", "redis://:secret@a"))
