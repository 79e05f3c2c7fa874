"""Where Redis is, as LORANK_REDIS_URL says it, for the service and the jobs alike: one server, a primary that Sentinel
names, or a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.cluster import ClusterNode
from redis.connection import ConnectionPool, parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

URL_FORMS = (
    "redis://[user:password@]host[:port][/number], redis+cluster://[user:password@]host[:port][,host[:port]...], or "
    "redis+sentinel://[user:password@]host[:port][,host[:port]...]/NAME[/number]; rediss in place of redis for TLS"
)

CLUSTER_REMEDY = "this server belongs to a Redis Cluster: set LORANK_REDIS_URL to redis+cluster://... (docs/scale.md)"
"""What to do where a server that was taken for the only one says that a key is another's."""

SENTINEL_SECONDS = 1.0
"""How long a Sentinel may take to answer before the next one is asked."""

ATTEMPTS, FIRST_SECONDS, LONGEST_SECONDS = 10, 0.01, 1.0
"""Attempts to reach a primary that has a name, and the pauses between them; redis-py's own for any other server."""

_PORTS = {"cluster": 6379, "sentinel": 26379}
_SENTINELS_OWN = {"sentinel_username": "username", "sentinel_password": "password"}

Host = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis URL that was understood.

    form      a server ("node"), a primary with a name at Sentinels, or a cluster
    url       as redis-py takes it: of the server, or of any server of the others, whose host and port come later
    hosts     of a cluster the nodes to ask for the others; the Sentinels
    name      of the primary at the Sentinels
    sentinel  options of connections to the Sentinels
    """

    form: Literal["node", "sentinel", "cluster"]
    url: str = field(repr=False)
    hosts: tuple[Host, ...] = ()
    name: str = ""
    sentinel: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """ValueError, with the reason and without the URL, which may hold a password, for one of no such form."""
        scheme, _, rest = url.partition("://")
        transport, _, form = scheme.partition("+")
        if form not in _PORTS:
            address = cls("node", url)
        elif transport not in ("redis", "rediss"):
            raise ValueError(f"the scheme {scheme} is none of {URL_FORMS}")
        else:
            address = cls._of_many(transport, form, rest)
        address._check()
        return address

    @classmethod
    def _of_many(cls, transport: str, form: str, rest: str) -> RedisAddress:
        parts = urlsplit(f"//{rest}")
        login, _, listed = parts.netloc.rpartition("@")
        hosts = tuple(_host(text, _PORTS[form]) for text in listed.split(","))
        steps = parts.path.strip("/").split("/") if parts.path.strip("/") else []
        options = parse_qsl(parts.query, keep_blank_values=True)
        own = tuple((_SENTINELS_OWN[name], value) for name, value in options if name in _SENTINELS_OWN)
        others = urlencode([pair for pair in options if pair[0] not in _SENTINELS_OWN])
        base = f"{transport}://{login}@" if login else f"{transport}://"
        tail = f"?{others}" if others else ""
        if form == "cluster":
            if steps not in ([], ["0"]) or own or "db" in dict(options):
                raise ValueError(
                    "a cluster has neither databases nor Sentinels: leave out the number behind its hosts, `db` and "
                    "`sentinel_...`"
                )
            return cls("cluster", f"{base}{_spelled(hosts[0])}{tail}", hosts)
        if not steps or len(steps) > 2:
            raise ValueError("the name of the primary is missing: its Sentinels are followed by /NAME or /NAME/number")
        database = f"/{steps[1]}" if len(steps) == 2 else ""
        return cls("sentinel", f"{base}{_spelled(hosts[0])}{database}{tail}", hosts, steps[0], own)

    def _check(self) -> None:
        """redis-py itself ignores a database that is no number, and finds an unknown option only when it connects."""
        try:
            parts = urlsplit(self.url)
            pool = ConnectionPool.from_url(self.url)
            pool.connection_class(**pool.connection_kwargs)
        except TypeError as error:
            raise ValueError(f"an option behind the ? is none of redis-py's: {error}") from error
        except (ValueError, redis.RedisError) as error:
            raise ValueError("its scheme, port or options are not understood") from error
        if parts.scheme == "unix":
            if not parts.path:
                raise ValueError("unix:// is followed by the path of a socket")
        elif re.fullmatch(r"/?|/\d+", parts.path) is None:
            raise ValueError("the database behind the host is no number")

    def at(self, host: Host) -> str:
        """The URL of a server of the cluster."""
        parts = urlsplit(self.url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{_spelled(host)}").geturl()

    def options(self) -> dict[str, Any]:
        """Options of a connection to a server whose host and port come later, as redis-py's classes take them."""
        options: dict[str, Any] = dict(parse_url(self.url))  # type: ignore[no-untyped-call]
        for name in ("host", "port", "connection_class"):
            options.pop(name, None)
        return options | ({"ssl": True} if self.has_tls else {})

    @property
    def has_tls(self) -> bool:
        return self.url.startswith("rediss:")

    def sentinel_options(self) -> dict[str, Any]:
        """Options of a connection to a Sentinel. A password that the primary has is not sent to it."""
        tls = {name: value for name, value in self.options().items() if name.startswith("ssl")}
        times = {"socket_timeout": SENTINEL_SECONDS, "socket_connect_timeout": SENTINEL_SECONDS}
        return tls | times | dict(self.sentinel)

    @contextmanager
    def connected(self, **options: Any) -> Iterator[redis.Redis]:
        """A client that waits for its replies, and is closed at the end. Of a cluster it is a RedisCluster, which has
        the same commands and asks for the nodes at once: RedisClusterException if none answers."""
        with ExitStack() as stack:
            client: Any
            if self.form == "node":
                client = redis.Redis.from_url(self.url, **options)
            elif self.form == "sentinel":
                again = Retry(ExponentialWithJitterBackoff(base=FIRST_SECONDS, cap=LONGEST_SECONDS), ATTEMPTS)
                own = {"retry": Retry(NoBackoff(), 0), **self.sentinel_options()}  # there are others to ask
                watch: Any = Sentinel(  # type: ignore[no-untyped-call]
                    list(self.hosts), sentinel_kwargs=own, **{"retry": again, **self.options(), **options}
                )
                stack.callback(watch.close)
                client = watch.master_for(self.name)
            else:
                nodes = [ClusterNode(*host) for host in self.hosts]  # type: ignore[no-untyped-call]
                client = redis.RedisCluster(startup_nodes=nodes, **self.options(), **options)
            stack.callback(client.close)
            yield client


def _host(text: str, port: int) -> Host:
    matched = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(?::(\d{1,5}))?", text)
    if matched is None or not 0 < int(matched[2] or port) < 65536:
        raise ValueError("its hosts are host or host:port, with commas between them")
    return matched[1].strip("[]"), int(matched[2] or port)


def _spelled(host: Host) -> str:
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
