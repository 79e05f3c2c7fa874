"""Redis is killed, hangs, is slow, full, empty, or replaced by another primary."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.chaos.rows import UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import Service, Stand, eventually, lost, url_of
from tests.chaos.traffic import LESS, Teller, Traffic
from tests.servers import Server, is_linked, running_sentinel
from tests.service.tiny import Publisher

PART = "Redis"
LATE = LESS | {"prior_order"}
"""Of requests whose time Redis uses up: where cores are busy, not enough may be left for the model."""

REPLICATED = ("--repl-diskless-sync-delay", "0")
"""A replica has a copy at once, without waiting for others that might want one, too."""

MANY, SOME = 8, 10
"""Tellers where a disk is waited for; interactions that have to be accepted before a trouble, and after it."""

DEADLINE_MS, QUEUE_MS = 4000.0, 100_000.0
"""The deadline of requests that are not about time, and how long they may wait for their turn: where others keep the
cores busy, shorter ones would say words of their own."""


class Wire(socketserver.ThreadingTCPServer):
    """A port that leads to a server: new connections to ``target``, replies ``delay_seconds`` late. Connections that
    stand go on leading where they led."""

    daemon_threads = True

    def __init__(self, target: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target, self.delay_seconds = target, 0.0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}"

    def pass_on(self, source: socket.socket, target: socket.socket, *, late: bool) -> None:
        """Bytes of one direction, until either end closes, which then closes both."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if late:
                    time.sleep(self.delay_seconds)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class _Relay(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire: Any = self.server
        with contextlib.suppress(OSError), socket.create_connection(wire.target.address) as server:
            ends, options = (server, self.request), {"late": True}
            replies = threading.Thread(target=wire.pass_on, args=ends, kwargs=options, daemon=True)
            replies.start()
            wire.pass_on(self.request, server, late=False)
            replies.join()


def process_of(server: Server) -> int:
    info: Any = server.client.info("server")
    return int(info["process_id"])


def role_of(server: Server) -> str:
    """ "master" or "slave"; "" of one that does not answer."""
    with contextlib.suppress(Exception):
        info: Any = server.client.info("replication")
        return str(info["role"])
    return ""


def follow(replica: Server, primary: Server) -> None:
    """Let a server become another one's replica, and wait until it has a copy."""
    replica.do("REPLICAOF", *primary.address)
    eventually(lambda: is_linked(replica), "a server never became a replica")


def serve(stand: Stand, url: str, **settings: Any) -> Service:
    return stand.serve(url, queue_ms=QUEUE_MS, **settings)


@dataclass
class Crowd:
    """Tellers who send at once. Where disks of replicas are waited for, each of their requests takes about a second."""

    tellers: list[Teller]

    @classmethod
    def of(cls, stand: Stand, service: Service, count: int = 1, name: str = "teller") -> Crowd:
        """Tellers; some of their interactions have been accepted before this returns."""
        tellers = [Teller(service.port, 0.02 * count, f"{name}-{at}") for at in range(count)]
        crowd = cls([stand.stack.enter_context(teller) for teller in tellers])
        crowd.wait_for(SOME)
        return crowd

    def wait_for(self, more: int) -> None:
        """Until so many more interactions are accepted."""
        enough = self.count("accepted") + more
        eventually(lambda: self.count("accepted") >= enough, "interactions are not accepted")

    @property
    def users(self) -> set[str]:
        return {user for teller in self.tellers for user, _ in teller.accepted}

    def count(self, what: Literal["accepted", "refused", "failed"]) -> int:
        return sum(len(teller.accepted) if what == "accepted" else getattr(teller, what) for teller in self.tellers)

    def lost(self, publisher: Publisher) -> int:
        return sum(lost(teller, publisher) for teller in self.tellers)


def concluded(
    traffic: Traffic, crowd: Crowd, publisher: Publisher, remark: str = "", missed: Sequence[str] = ()
) -> Outcome:
    """The outcome once all is as before, and interactions are accepted again. An interaction that got an error, or no
    answer, has failed."""
    traffic.settle()
    crowd.wait_for(SOME)
    refused = crowd.count("refused")
    said = [remark, f"{refused} interactions were refused (503)" if refused else ""]
    accepted = crowd.count("accepted")
    seen = traffic.outcome(
        accepted=accepted, lost=crowd.lost(publisher), remark="; ".join(filter(None, said)), missed=missed
    )
    return seen.model_copy(update={"failed": seen.failed + crowd.count("failed")})


@row(PART, "killed, and started again 3 s later; interactions are sent meanwhile",
     Goal(words=LESS), short=True)  # fmt: skip
def redis_killed(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = stand.install(server.client)
    service = serve(stand, url_of(server))
    traffic, crowd = stand.traffic(service, deadline_ms=DEADLINE_MS), Crowd.of(stand, service)
    stand.wait(1.0)
    with traffic.trouble():
        server.kill()
        stand.wait(3.0)
        server.start()
    return concluded(traffic, crowd, publisher)


@row(PART, "hangs for 3 s (SIGSTOP)", Goal(words=LATE), short=True)
def redis_hangs(stand: Stand) -> Outcome:
    server = stand.valkey()
    stand.install(server.client)
    process = process_of(server)
    service = serve(stand, url_of(server))
    traffic = stand.traffic(service)
    with traffic.trouble():
        os.kill(process, signal.SIGSTOP)
        stand.wait(3.0)
        os.kill(process, signal.SIGCONT)
    traffic.settle()
    return traffic.outcome()


@row(PART, "slow for 5 s: each reply comes 100 ms late, and requests have 160 ms; interactions are sent meanwhile",
     Goal(words=LATE))  # fmt: skip
def redis_slow(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = stand.install(server.client)
    wire = stand.stack.enter_context(Wire(server))
    service = serve(stand, wire.url)
    traffic, crowd = stand.traffic(service, deadline_ms=160.0), Crowd.of(stand, service)
    with traffic.trouble():
        wire.delay_seconds = 0.1
        stand.wait(5.0)
        features = service.status()["stages"]["features"]
        wire.delay_seconds = 0.0
    missed = [] if features["state"] == "degraded" else ["/v1/status does not tell what requests meet"]
    remark = f"/v1/status: features are {features['state']}, {features['reason']}"
    return concluded(traffic, crowd, publisher, remark, missed)


@row(PART, "full for 3 s (`maxmemory` is reached, `noeviction`); interactions are sent meanwhile",
     Goal(added=UNHINDERED))  # fmt: skip
def redis_full(stand: Stand) -> Outcome:
    server = stand.valkey("--maxmemory-policy", "noeviction")
    publisher = stand.install(server.client)
    service = serve(stand, url_of(server))
    traffic, crowd = stand.traffic(service, deadline_ms=DEADLINE_MS), Crowd.of(stand, service)
    with traffic.trouble():
        server.client.config_set("maxmemory", "1mb")
        accepted = crowd.count("accepted")
        stand.wait(3.0)
        more = crowd.count("accepted") - accepted
        missed = [f"{more} interactions were accepted though there is no memory"] if more > 1 else []
        if not crowd.count("refused"):
            missed.append("no interaction was refused")
        server.client.config_set("maxmemory", "0")
    return concluded(traffic, crowd, publisher, missed=missed)


@row(PART, "emptied (FLUSHALL); 3 s later users are stored again, and the release published again",
     Goal(words=LESS | {"no_pointer"}, unsaid=None), short=True)  # fmt: skip
def redis_emptied(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = stand.install(server.client)
    service = serve(stand, url_of(server))
    traffic = stand.traffic(service, deadline_ms=DEADLINE_MS)
    with traffic.trouble():
        server.client.flushall()
        stand.wait(3.0)
        pointer = service.status()["redis"]["pointer"]
        stand.store_users(publisher)
        publisher.publish()
    traffic.settle()
    ends = [each.at + each.seconds for each in traffic.answers if "no_pointer" in each.words]
    late = sum(each.verdict == "unsaid" and each.at > min(ends, default=0.0) for each in traffic.answers)
    missed = [
        words
        for words, is_missed in (
            (f"/v1/status says that the pointer is {pointer}", pointer != "vanished"),
            ("nobody said that there is no pointer", not ends),
            (f"{late} answers were of less without a word after it had been said", late > 0),
        )
        if is_missed
    ]
    return traffic.outcome(
        missed=missed, remark="what is without a word is of before the next look at the pointer (every .2 s here)"
    )


def replicated(stand: Stand) -> tuple[Server, Server, Wire, Service]:
    """A primary, its replica, the name that leads to the primary, and a service that asks there."""
    old, new = stand.valkey(*REPLICATED), stand.valkey(*REPLICATED)
    follow(new, old)
    wire = stand.stack.enter_context(Wire(old))
    stand.install(old.client)
    return old, new, wire, serve(stand, wire.url, feedback_fsyncs=2)


@row(PART, "another primary, behind the same name: the replica is promoted, and the primary, which connections still "
     "lead to, becomes its replica; LORANK_FEEDBACK_FSYNCS=2", Goal(words=LESS), short=True)  # fmt: skip
def primary_demoted(stand: Stand) -> Outcome:
    old, new, wire, service = replicated(stand)
    traffic, crowd = stand.traffic(service, deadline_ms=DEADLINE_MS), Crowd.of(stand, service, MANY)
    with traffic.trouble():
        new.do("REPLICAOF", "NO", "ONE")
        wire.target = new
        follow(old, new)
    return concluded(traffic, crowd, stand.publisher(new.client))


@row(PART, "another primary, behind the same name: the primary is killed, the replica is promoted 1 s later, and then "
     "has the killed one as its replica; LORANK_FEEDBACK_FSYNCS=2", Goal(words=LESS))  # fmt: skip
def primary_killed(stand: Stand) -> Outcome:
    old, new, wire, service = replicated(stand)
    traffic, crowd = stand.traffic(service, deadline_ms=DEADLINE_MS), Crowd.of(stand, service, MANY)
    with traffic.trouble():
        old.kill()
        stand.wait(1.0)
        new.do("REPLICAOF", "NO", "ONE")
        wire.target = new
        old.start()
        follow(old, new)
    return concluded(traffic, crowd, stand.publisher(new.client))


@row(PART, "another primary, by Sentinel: the primary is killed, and one of two replicas takes over; "
     "LORANK_FEEDBACK_FSYNCS=2", Goal(words=LESS))  # fmt: skip
def primary_killed_under_sentinel(stand: Stand) -> Outcome:
    watched = stand.stack.enter_context(running_sentinel(stand.folder / "sentinel", replicas=2))
    for replica in watched.replicas:
        replica.client.config_set("appendonly", "yes")
    stand.install(watched.primary.client)
    service = serve(stand, watched.url, feedback_fsyncs=2)
    traffic, crowd = stand.traffic(service, deadline_ms=DEADLINE_MS), Crowd.of(stand, service, MANY)
    with traffic.trouble():
        watched.primary.kill()
        eventually(lambda: any(role_of(each) == "master" for each in watched.replicas), "Sentinel names no primary")
    new = next(each for each in watched.replicas if role_of(each) == "master")
    return concluded(traffic, crowd, stand.publisher(new.client))
