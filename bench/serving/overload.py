"""Goal: what the service does when three times as many requests arrive as it can answer.

usage: python -m bench.serving.overload URL BODIES.jsonl CAPACITY SECONDS [--seed N] -> one line of JSON

Half the capacity arrives first, then three times the capacity, then half of it again, all from one generator, so that
the service does not know what comes. Probes are asked meanwhile, each over a connection of its own.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop

from bench.serving.arrivals import Arrived, arriving, due_at
from bench.serving.installed import CANDIDATES, Installed, Workbench
from bench.serving.results import Numbers
from bench.serving.servers import Server, get, json_of, ours
from bench.serving.spread import Spread, markdown_table
from bench.serving.tails import peak_of
from bench.serving.world import World

CALM, FLOOD = 0.5, 3.0
"""Arrivals, as shares of the capacity."""

FLOOD_CONNECTIONS = 1024
PROBE_PAUSE_SECONDS = 0.1
BIN_SECONDS, LATE_SHARE = 0.25, 0.05
"""After a flood a piece of this length is not yet as before if more than this share of its requests was refused, or
took more than four times the calm p99. A single request says nothing: a neighbour on the machine makes it late too."""


class Probes:
    """Asks /healthz, each time over a connection of its own, as long as the context lasts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seconds: list[float] = []
        self.failed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PROBE_PAUSE_SECONDS):
            began = time.perf_counter()
            if get(self._port, "/healthz") is None:
                self.failed += 1
            else:
                self.seconds.append(time.perf_counter() - began)


def measure_overload(workbench: Workbench) -> Numbers:
    world, effort = workbench.world(World()), workbench.effort
    bodies, rounds = world.bodies("top50", CANDIDATES), []
    for number in range(effort.rounds):
        before = _capacity(world, bodies, effort.seconds)
        with ours(world, {"default_deadline_ms": "100"}) as server:
            numbers = overloaded(server, bodies, before, effort.steady_seconds, number)
        after = _capacity(world, bodies, effort.seconds)
        rounds.append(numbers | {"capacity": (before + after) / 2, "capacity_before": before, "capacity_after": after})
    return {"candidates": CANDIDATES, "rounds": rounds}


def _capacity(world: Installed, bodies: Path, seconds: float) -> float:
    """Requests per second that a server answers which refuses none."""
    with ours(world, {"queue_ms": "10000"}) as server:
        return peak_of(server, bodies, seconds)


def overloaded(server: Server, bodies: Path, capacity: float, seconds: float, seed: int) -> dict[str, Any]:
    """A calm, a flood and a calm of ``seconds`` each."""
    with Probes(server.port) as probes:
        command = ["bench.serving.overload", server.url, str(bodies), str(capacity), str(seconds), "--seed", str(seed)]
        numbers = json_of(command)
    slowest = max(probes.seconds, default=float("inf"))
    return numbers | {"capacity": capacity, "probes": len(probes.seconds), "probes_failed": probes.failed,
                      "slowest_probe_ms": slowest * 1000}  # fmt: skip


def ratio(numbers: Numbers, of: str, to: str) -> Spread:
    """A number of each round over another one of it."""
    return Spread.of([run[of] / run[to] for run in numbers["rounds"]])


def overload_section(numbers: Numbers) -> str:
    head = (
        "requests/s offered", "answered, requests/s", "p50, ms", "p99, ms", "refused", "unanswered",
    )  # fmt: skip
    rounds = numbers["rounds"]

    def spread(name: str, factor: float = 1.0, digits: int = 1) -> str:
        return f"{Spread.of([factor * run[name] for run in rounds]):.{digits}f}"

    rows = [
        (f"half of what it can answer ({spread('capacity', CALM, 0)})", spread("calm_goodput", digits=0),
         spread("calm_p50"), spread("calm_p99"), spread("refused_calm", digits=0), "0"),
        (f"three times as many ({spread('capacity', FLOOD, 0)})", spread("goodput", digits=0), spread("flood_p50"),
         spread("flood_p99"), spread("refused_flood", digits=0), sum(run["unanswered"] for run in rounds)),
    ]  # fmt: skip
    slowest = max(run["slowest_probe_ms"] for run in rounds)
    probes, failed = (sum(run[name] for run in rounds) for name in ("probes", "probes_failed"))
    last = spread("recovery_seconds")
    return (
        f"{markdown_table(head, rows)}\n\n"
        f"{len(rounds)} rounds, {numbers['candidates']} candidates, default settings. Of {probes} probes, each over a "
        f"connection of its own, {failed} failed; the slowest took {slowest:.0f} ms. The last quarter of a second in "
        f"which more than {LATE_SHARE:.0%} were refused, or took four times the calm p99, ended {last} s after it."
    )


def phase_numbers(arrived: Arrived, seconds: float) -> dict[str, Any]:
    """Of arrivals in three phases of ``seconds``. Accepted requests are those that were answered with 200."""
    phase = np.minimum((arrived.due // seconds).astype(int), 2)
    milliseconds = arrived.latency * 1000
    calm, flood = [milliseconds[(phase == number) & arrived.well] for number in (0, 1)]
    p99 = float(np.percentile(calm, 99))
    late = ~(arrived.well & (milliseconds <= 4 * p99))
    return {
        "calm_p50": float(np.median(calm)),
        "calm_p99": p99,
        "flood_p50": float(np.median(flood)) if len(flood) else float("inf"),
        "flood_p99": float(np.percentile(flood, 99)) if len(flood) else float("inf"),
        "calm_goodput": len(calm) / seconds,
        "goodput": len(flood) / seconds,
        "refused_calm": int((~arrived.well[phase == 0]).sum()),
        "refused_flood": int((~arrived.well[phase == 1]).sum()),
        "unanswered": int(np.isinf(arrived.latency).sum()),
        "recovery_seconds": _recovery_seconds(arrived.due[phase == 2] - 2 * seconds, late[phase == 2]),
    }


def _recovery_seconds(due: npt.NDArray[np.float64], late: npt.NDArray[np.bool_]) -> float:
    """End of the last piece of ``due`` [n] seconds after a flood that was not as before; 0 if each was."""
    piece = (due // BIN_SECONDS).astype(int)
    shares = np.bincount(piece, late) / np.maximum(np.bincount(piece), 1)
    beyond = np.flatnonzero(shares > LATE_SHARE)
    return (int(beyond[-1]) + 1) * BIN_SECONDS if len(beyond) else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("capacity", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    phases = [
        number * given.seconds + due_at(share * given.capacity, given.seconds, "poisson", 3 * given.seed + number)
        for number, share in enumerate((CALM, FLOOD, CALM))
    ]
    due = np.sort(np.concatenate(phases))
    bodies = given.bodies.read_bytes().splitlines()
    arrived = uvloop.run(arriving(given.url, bodies, due[due < 3 * given.seconds], FLOOD_CONNECTIONS))
    print(json.dumps(phase_numbers(arrived, given.seconds)))


if __name__ == "__main__":
    main()
