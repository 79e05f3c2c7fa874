"""Redis is killed, hangs, is slow, full, empty, replaced by another primary; a cluster loses a primary."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.chaos.rows import Goal, Outcome, row
from tests.chaos.stand import Stand, lost, url_of

PART = "Redis"
LESS = frozenset({"no_knowledge", "no_features"})


@row(PART, "killed, and started again 3 s later; interactions are sent meanwhile",
     Goal(words=LESS, refused=None), short=True)  # fmt: skip
def redis_killed(stand: Stand) -> Outcome:
    server = stand.valkey()
    publisher = stand.install(server.client)
    service = stand.serve(url_of(server))
    traffic, teller = stand.traffic(service), stand.teller(service)
    stand.wait(1.0)
    with traffic.trouble():
        server.kill()
        stand.wait(3.0)
        server.start()
    traffic.settle()
    return traffic.outcome(accepted=len(teller.accepted), lost=lost(teller, publisher))


@row(PART, "hangs for 3 s (SIGSTOP)", Goal(words=LESS), short=True)
def redis_hangs(stand: Stand) -> Outcome:
    server = stand.valkey()
    stand.install(server.client)
    info: Any = server.client.info("server")
    service = stand.serve(url_of(server))
    traffic = stand.traffic(service)
    with traffic.trouble():
        os.kill(info["process_id"], signal.SIGSTOP)
        stand.wait(3.0)
        os.kill(info["process_id"], signal.SIGCONT)
    traffic.settle()
    return traffic.outcome()
