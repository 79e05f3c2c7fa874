"""The service's processes: told to stop, killed, hanging, slow to start; and more requests than they can answer."""

from __future__ import annotations

import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import redis

from models.contract.prefixes import own_folder
from models.contract.snapshot import change
from models.valkey.embedded import embedded_redis
from tests.chaos.rows import PROBE_SECONDS, UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import PREFIX, ROOT, Service, Stand, eventually, url_of
from tests.chaos.traffic import ANSWER_SECONDS, CALLERS, LESS, PRIOR
from tests.service.tiny import TinyItem

PART = "Processes"

PATIENT_MS, PATIENT_QUEUE_MS = 20_000.0, 200_000.0
"""A deadline, and a time to wait for one's turn, that busy neighbours of the machine do not exceed."""

KEPT = (
    "A connection that is kept with a process ends with it, and so do the request on it and the one that its caller "
    "sends before it knows: at most one of each caller. Clients of HTTP repeat such a request."
)
"""Why a process that dies costs something."""

OF_A_PROCESS = Goal(failed=CALLERS, probes_failed=1)

BEGUN, SERVES = "Started server process", "Application startup complete"
"""What the log says of each worker."""

SLOW_IMPORT = """
import sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    time.sleep({seconds})
"""
"""A sitecustomize.py that makes workers, and nobody else, begin late."""

P99_GOAL, SHARE_GOAL, RECOVERY_GOAL_SECONDS = 2.0, 0.9, 2.0
"""Of an overload: the accepted requests' p99 as a multiple of calm hours', the share of the capacity that is answered,
and the time after which it is as before."""


READY_GOAL, LOADING_GOAL = 10.0, 0.25
"""Of a start beside four busy processes: its time as a multiple of a start alone, of which two cores leave a fifth
process 2.5, and the loading of the release as a share of it. Loaded at the usual priority a release of BUSY_ITEMS took
.06 of it, at the lowest .35 to .45: imports take most of the time, so that the first number alone tells little."""

STARTS, BUSY_ITEMS = 3, 1000

LIVE = re.compile(r"release .* is live, .* items, (\d+) ms")
"""What the log says of a release that is loaded."""


def started(stand: Stand, wrapper: Sequence[str] = (), **settings: Any) -> Service:
    """A service with the users of the stand, whose requests may wait long. ``settings`` as ``Stand.serve``."""
    server = stand.valkey()
    stand.install(server.client)
    patient = {"queue_ms": PATIENT_QUEUE_MS, "max_deadline_ms": PATIENT_MS}
    return stand.serve(url_of(server), wrapper, **(patient | settings))


def workers_of(service: Service) -> set[int]:
    """Process ids of the workers."""
    parent = service.popen.pid
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except FileNotFoundError:
        return set()
    return {int(child) for child in children if "--multiprocessing-fork" in _command(child)}


def _command(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def all_serve(service: Service, count: int, without: int = 0) -> set[int]:
    """Wait for so many workers that serve, none of them the process ``without``; who they are."""

    def serving() -> set[int]:
        log = service.output.read_text()
        if log.count(BEGUN) > log.count(SERVES):
            return set()
        pids = {pid for pid in workers_of(service) if f"{BEGUN} [{pid}]" in log}
        return pids if len(pids) == count and without not in pids else set()

    return set(eventually(serving, f"{count} workers never served: {service.output.read_text()[-2000:]}", 120.0))


def told_to_end(stand: Stand, workers: int) -> Outcome:
    """SIGTERM, and a drain of two seconds."""
    service = started(stand, workers=workers, drain_seconds=2)
    if workers > 1:
        all_serve(service, workers)
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS, until_refused=True)
    with traffic.trouble():
        service.signal(signal.SIGTERM)
        stand.wait(1.0)
        leaving = service.get("/readyz")[0]
        status = service.popen.wait(60)
        eventually(lambda: not traffic.goes_on, "callers were never refused")
    remark = f"/readyz {leaving} in the drain, exit status {status}"
    return traffic.outcome(remark=remark, missed=() if (leaving, status) == (503, 0) else (remark,))


@row(PART, "one process: SIGTERM, LORANK_DRAIN_SECONDS=2; callers go on until they are refused a connection",
     Goal(added=UNHINDERED))  # fmt: skip
def stopped_alone(stand: Stand) -> Outcome:
    return told_to_end(stand, 1)


@row(PART, "three workers: SIGTERM, LORANK_DRAIN_SECONDS=2; callers go on until they are refused a connection",
     Goal(added=UNHINDERED), short=True)  # fmt: skip
def stopped_workers(stand: Stand) -> Outcome:
    return told_to_end(stand, 3)


def replaced(stand: Stand, number: int) -> Outcome:
    """A signal to one of three workers, until another one serves in its place."""
    service = started(stand, workers=3)
    lost = min(all_serve(service, 3))
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    with traffic.trouble():
        began = time.monotonic()
        os.kill(lost, number)
        all_serve(service, 3, without=lost)
        seconds = time.monotonic() - began
    traffic.settle()
    return traffic.outcome(remark=f"another worker served after {seconds:.1f} s")


@row(PART, "one of three workers is killed", OF_A_PROCESS, short=True, floor=KEPT)
def worker_killed(stand: Stand) -> Outcome:
    return replaced(stand, signal.SIGKILL)


@row(PART, "one of three workers hangs (SIGSTOP) until it is replaced",
     replace(OF_A_PROCESS, probe_seconds=ANSWER_SECONDS + PROBE_SECONDS), floor=KEPT)  # fmt: skip
def worker_hangs(stand: Stand) -> Outcome:
    return replaced(stand, signal.SIGSTOP)


@row(PART, "one of three workers hangs for 5 s (SIGSTOP), and goes on",
     Goal(words=LESS | {PRIOR}, refused=CALLERS, probes_failed=1, probe_seconds=5.0 + PROBE_SECONDS))  # fmt: skip
def worker_pauses(stand: Stand) -> Outcome:
    service = started(stand, workers=3)
    stopped = min(all_serve(service, 3))
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    with traffic.trouble():
        os.kill(stopped, signal.SIGSTOP)
        stand.wait(5.0)
        os.kill(stopped, signal.SIGCONT)
    traffic.settle()
    return traffic.outcome()


@row(PART, "the supervisor of three workers is killed; callers go on until they are refused a connection")
def supervisor_killed(stand: Stand) -> Outcome:
    service = started(stand, workers=3)
    orphans = all_serve(service, 3)
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS, until_refused=True)
    with traffic.trouble():
        service.signal(signal.SIGKILL)
        service.popen.wait()
        eventually(lambda: not any(_command(str(pid)) for pid in orphans), "workers outlive their supervisor")
        eventually(lambda: not traffic.goes_on, "callers were never refused")
        service.start()
        seconds = service.becomes_ready()
    others = {each.verdict for each in stand.traffic(service, deadline_ms=PATIENT_MS).answers} - {"well"}
    missed = (f"after the new start: {', '.join(others)}",) if others else ()
    return traffic.outcome(missed=missed, remark=f"a new start had the port and was ready after {seconds:.1f} s")


@row(PART, "two workers that import for 12 s", Goal(added=UNHINDERED))
def slow_imports(stand: Stand) -> Outcome:
    (stand.folder / "sitecustomize.py").write_text(SLOW_IMPORT.format(seconds=12))
    late = ("env", f"PYTHONPATH={stand.folder}:{ROOT}")
    service = started(stand, late, ready=False, workers=2)
    eventually(lambda: len(workers_of(service)) == 2, "there are no two workers", 120.0)
    first = workers_of(service)
    seconds = service.becomes_ready()
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    with traffic.trouble():
        later = all_serve(service, 2)
    traffic.settle()
    missed = (f"{len(first - later)} workers were replaced before they were ready",) if first != later else ()
    return traffic.outcome(missed=missed, remark=f"ready after {seconds:.1f} s")


@row(PART, "the embedded Valkey hangs (SIGSTOP), and one of two workers is killed meanwhile",
     Goal(words=LESS, failed=CALLERS, probes_failed=1), floor=KEPT)  # fmt: skip
def worker_killed_without_valkey(stand: Stand) -> Outcome:
    url = stand.stack.enter_context(embedded_redis(own_folder(stand.folder / "data/valkey", PREFIX)))
    client = stand.stack.enter_context(redis.Redis.from_url(url))
    stand.install(client)
    info: Any = client.info("server")
    service = stand.serve("", workers=2)
    killed = min(all_serve(service, 2))
    traffic = stand.traffic(service)
    with traffic.trouble():
        os.kill(info["process_id"], signal.SIGSTOP)
        try:
            stand.wait(2.0)
            os.kill(killed, signal.SIGKILL)
            eventually(lambda: len(workers_of(service) - {killed}) == 2, "no other worker is started")
            stand.wait(8.0)  # the new one may not answer without a release, while the other one has it
        finally:
            os.kill(info["process_id"], signal.SIGCONT)
    all_serve(service, 2, without=killed)
    traffic.settle()
    return traffic.outcome()


@row(PART, f"{STARTS} starts beside four busy processes of usual priority; all of {BUSY_ITEMS:,} items have changed")
def busy_start(stand: Stand) -> Outcome:
    server = stand.valkey("--appendfsync", "no")
    publisher = stand.publisher(server.client)
    publisher.publish(items=[TinyItem(f"item-{at}") for at in range(BUSY_ITEMS)])
    publisher.redis.xadd(publisher.keys.changes, change("r1", None))  # the records are read, not their files alone
    publisher.redis.set(publisher.keys.release_revision("r1"), publisher.change("r1"))
    ratios, shares = [], []
    for _ in range(STARTS):
        alone, _ = _start_seconds(stand, url_of(server))
        neighbours = [Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
        try:
            beside, loading = _start_seconds(stand, url_of(server))
        finally:
            for each in neighbours:
                each.kill()
                each.wait()
        ratios.append(beside / alone)
        shares.append(loading / beside)
    ratio, share = statistics.median(ratios), statistics.median(shares)
    missed = [
        words
        for words, is_missed in (
            (f"ready after {ratio:.1f} times as long as alone, goal {READY_GOAL:g}", ratio > READY_GOAL),
            (f"{share:.0%} of that for loading the release, goal {LOADING_GOAL:.0%}", share > LOADING_GOAL),
        )
        if is_missed
    ]
    return Outcome(
        missed=tuple(missed),
        remark=f"ready after {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f}) times as long as alone (goal: "
        f"{READY_GOAL:g}), {share:.0%} ({min(shares):.0%} to {max(shares):.0%}) of that for loading the release "
        f"(goal: {LOADING_GOAL:.0%}); medians",
    )


def _start_seconds(stand: Stand, url: str) -> tuple[float, float]:
    """Seconds until a service is ready, and those of them that loading took."""
    service = stand.serve(url, ready=False)
    seconds = service.becomes_ready()
    service.end()
    (loading_ms,) = LIVE.findall(service.output.read_text())
    return seconds, int(loading_ms) / 1000


@row(
    PART, "three times as many requests as one process can answer, 500 candidates each",
    Goal(refused=None, added=P99_GOAL, recovery_seconds=RECOVERY_GOAL_SECONDS),
    excuses=frozenset({"added"}),
    floor="In the first moments of a flood requests are let in before their waits show that there are too many "
          "(docs/decisions/0021-admission.md); their p99 was 2.67 times that of calm hours on a quiet machine. "
          "A virtual machine's neighbours change its speed by half within a round: seven runs of one code had medians "
          "of 71% to 109% of the capacity and .4 to 2.3 times p99 (research/LOG.md).",
)  # fmt: skip
def overload(stand: Stand) -> Outcome:
    from bench.serving.installed import Effort, Workbench  # torch, which takes the other rows seconds to load
    from bench.serving.overload import measure_overload

    effort = Effort("chaos", 5, 1.0, 5.0, 0, 0, (), ())
    rounds: Any = measure_overload(Workbench(effort, None, stand.folder, stand.stack))["rounds"]
    ratios = [each["flood_p99"] / each["calm_p99"] for each in rounds]
    shares = [each["goodput"] / each["capacity"] for each in rounds]
    p99, share, back = (
        statistics.median(each) for each in (ratios, shares, [run["recovery_seconds"] for run in rounds])
    )
    answered = sum((run["calm_goodput"] + run["goodput"]) * effort.steady_seconds for run in rounds)
    refused = sum(run["refused_calm"] + run["refused_flood"] for run in rounds)
    missed = [f"{share:.0%} of the capacity answered, goal {SHARE_GOAL:.0%}"] if share < SHARE_GOAL else []
    calm = statistics.median(run["calm_p99"] for run in rounds)
    shares_said = f"{share:.0%} ({min(shares):.0%} to {max(shares):.0%}) of the capacity answered"
    return Outcome(
        requests=round(answered) + refused,
        refused=refused,
        failed=sum(run["unanswered"] for run in rounds),
        calm_p99_ms=calm,
        trouble_p99_ms=p99 * calm,
        recovery_seconds=back,
        probes_failed=sum(run["probes_failed"] for run in rounds),
        probe_seconds=max(run["slowest_probe_ms"] for run in rounds) / 1000,
        missed=tuple(missed),
        remark=f"statuses alone are looked at; {shares_said}, p99 {p99:.1f} ({min(ratios):.1f} to {max(ratios):.1f}) "
        f"times that of calm; medians of {len(rounds)} rounds",
    )
