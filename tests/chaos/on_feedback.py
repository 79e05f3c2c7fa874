"""Interactions: what one request with many of them costs others, and what an accepted one is worth."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from typing import Any

from models.contract.events import Interaction
from tests.chaos.on_redis import DEADLINE_MS, MANY, PART, Crowd, concluded, serve
from tests.chaos.rows import UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import Service, Stand, url_of
from tests.chaos.traffic import LESS, Traffic
from tests.servers import Server

EVENTS, LONGEST = 1000, 11_250
"""Events of a request, and of the longest history that there is at LORANK_HISTORY_MAX_EVENTS=10000."""

MOST_BYTES = 3.0
"""Of append-only file that a full history may cost, as a multiple of what a short one costs."""

ROUNDS = 7
LOOKS = 20


def send(service: Service, user: str, count: int, first_ms: int) -> None:
    """So many events of a user in one request."""
    client = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    events = [{"user_id": user, "item_id": "a", "value": 5, "timestamp_ms": first_ms + at} for at in range(count)]
    client.request("POST", "/v1/feedback", json.dumps({"events": events}))
    response = client.getresponse()
    content = response.read()
    client.close()
    assert response.status == 200, content


def appended(server: Server) -> int:
    """Bytes of the append-only file."""
    info: Any = server.client.info("persistence")
    return int(info["aof_current_size"])


def slowest(traffic: Traffic, began: float, ended: float) -> float:
    """Seconds of the slowest of the answers that were under way in a time."""
    return max(each.seconds for each in traffic.answers if each.at <= ended and each.at + each.seconds >= began)


@row(PART, f"one request of {EVENTS:,} events for a user whose history is full", Goal(added=UNHINDERED))
def many_events_of_a_full_history(stand: Stand) -> Outcome:
    server = stand.valkey("--auto-aof-rewrite-percentage", "0")
    publisher = stand.install(server.client)
    old = [Interaction(user_id="full", item_id="b", value=3, time_ms=at).pack() for at in range(LONGEST)]
    service = serve(stand, url_of(server))
    bytes_of: dict[str, int] = {}
    seconds_of: dict[str, list[float]] = {"short": [], "full": []}

    def fill() -> None:
        publisher.redis.set(publisher.keys.user_history("full"), b"".join(old))

    for user in seconds_of:
        fill()
        before = appended(server)
        send(service, user, EVENTS, 10**12)
        bytes_of[user] = appended(server) - before
    traffic = stand.traffic(service, deadline_ms=DEADLINE_MS)
    with traffic.trouble():
        for number in range(1, ROUNDS + 1):
            for user, seconds in seconds_of.items():
                fill()
                time.sleep(0.3)
                began = time.monotonic()
                send(service, user, EVENTS, 10**12 + number * EVENTS)
                ended = time.monotonic()
                time.sleep(0.3)
                seconds.append(slowest(traffic, began, ended))
    traffic.settle()
    ratio = bytes_of["full"] / bytes_of["short"]
    missed = [f"{ratio:.1f} times the bytes of a short history, goal {MOST_BYTES:g}"] if ratio > MOST_BYTES else []
    times = statistics.median(seconds_of["full"]) / statistics.median(seconds_of["short"])
    return traffic.outcome(
        missed=missed,
        remark=f"{bytes_of['full']:,} bytes of append-only file, {ratio:.1f} times those of a short history "
        f"(goal: {MOST_BYTES:g}); "
        f"the slowest request of others beside it took {times:.1f} times as long as beside that (medians of {ROUNDS})",
    )


def on_disk(server: Server, service: Service, policy: str) -> str:
    """How often the disk had the whole append-only file when an interaction had just been accepted, in words."""
    server.client.config_set("appendfsync", policy)
    looks = []
    for at in range(LOOKS):
        send(service, f"{policy}-{service.port}", 1, 10**12 + at)
        looks.append(server.unwritten_pages())
        time.sleep(0.02)  # or the next second of everysec would never come between two
    return "not told by this kernel" if None in looks else f"{looks.count(0)} of {LOOKS} times"


@row(PART, "killed and started again while interactions are sent; `appendfsync everysec`, LORANK_FEEDBACK_FSYNCS=1",
     Goal(words=LESS),
     floor="SIGKILL leaves the kernel what was written; of a machine that dies, `appendfsync always` alone is proved. "
     "Valkey 9.1.2 answers WAITAOF under `everysec` before its fsync (redis/redis#13793 mended that in "
     "Redis), so that LORANK_FEEDBACK_FSYNCS cannot wait for the disk there")  # fmt: skip
def accepted_interactions_on_disk(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = stand.install(server.client)
    careful, hasty = (serve(stand, url_of(server), feedback_fsyncs=servers) for servers in (1, 0))
    always, everysec = (on_disk(server, careful, policy) for policy in ("always", "everysec"))
    none = on_disk(server, hasty, "everysec")
    traffic = stand.traffic(careful, deadline_ms=DEADLINE_MS)
    crowd, others = Crowd.of(stand, careful, MANY), Crowd.of(stand, hasty, name="other")
    stand.wait(3.0)
    with traffic.trouble():
        server.kill()
        server.start()
    outcome = concluded(traffic, crowd, publisher)
    remark = (
        "right after an answer the disk had the whole append-only file (the kernel's cachestat) "
        f"{always} with `always`, {everysec} with `everysec`, {none} with LORANK_FEEDBACK_FSYNCS=0, where SIGKILL cost "
        f"{others.lost(publisher)} of {others.count('accepted')} accepted ones, too"
    )
    return outcome.model_copy(update={"remark": "; ".join(filter(None, [remark, outcome.remark]))})
