"""Goal 3: how long requests take when they arrive on their own, at 60 % of what the service can answer; and whether a
hundred thousand of them are answered."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.installed import CANDIDATES, Installed, Workbench
from bench.serving.results import Numbers
from bench.serving.servers import Server, closed, json_of, ours
from bench.serving.spread import Spread, markdown_table
from bench.serving.world import World

SHARE = 0.6
MANY_COUNT = 100
"""Candidates of the requests whose tail counts, and of the many that must not fail."""


def measure_tails(workbench: Workbench) -> Numbers:
    world, effort = workbench.world(World()), workbench.effort
    numbers: dict[str, Any] = {"share": SHARE, "cases": {}}
    with ours(world) as server:
        for count in (CANDIDATES, MANY_COUNT):
            bodies = world.bodies("top50", count)
            peak = peak_of(server, bodies, effort.seconds)
            runs = []
            for number in range(3):
                for spacing in ("poisson", "constant"):
                    run = arriving(server, bodies, SHARE * peak, effort.steady_seconds, spacing, number)
                    runs.append(run | {"arrivals": spacing})
            numbers["cases"][str(count)] = {"peak": peak, "rate": SHARE * peak, "runs": runs}
        numbers["many"] = _many(world, server, numbers["cases"][str(MANY_COUNT)]["rate"], effort.many)
    return numbers


def peak_of(server: Server, bodies: Path, seconds: float) -> float:
    """Requests per second under closed-loop load: the median of three."""
    return statistics.median(float(closed(server, bodies, seconds)["requests_per_second"]) for _ in range(3))


def arriving(
    server: Server, bodies: Path, rate: float, seconds: float, spacing: str = "poisson", seed: int = 0
) -> dict[str, Any]:
    """Open-loop load: see bench/serving/arrivals.py."""
    where = [server.url, str(bodies), str(rate), str(seconds)]
    return json_of(["bench.serving.arrivals", *where, "--arrivals", spacing, "--seed", str(seed)])


def _many(world: Installed, server: Server, rate: float, requests: int) -> dict[str, Any]:
    return arriving(server, world.bodies("top50", MANY_COUNT), rate, requests / rate, seed=99) | {"rate": rate}


def tail_ratio(numbers: Numbers, count: int = CANDIDATES, spacing: str = "poisson") -> Spread:
    """p99 over p50, run by run."""
    runs = [run for run in numbers["cases"][str(count)]["runs"] if run["arrivals"] == spacing]
    return Spread.of([run["p99"] / run["p50"] for run in runs])


def queue_ratio(share: float) -> float:
    """p99 over p50 of the time in a queue with random arrivals before one server of constant speed, simulated."""
    gaps = np.random.default_rng(0).exponential(1 / share, 500_000)
    # Waiting is a random walk of (1 - gap) that starts anew whenever it would fall below zero (Lindley).
    walk = np.cumsum(1.0 - gaps)
    waited = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
    return float(np.percentile(1.0 + waited, 99) / np.percentile(1.0 + waited, 50))


def tails_section(numbers: Numbers) -> str:
    rows = []
    for count, case in numbers["cases"].items():
        for spacing in ("poisson", "constant"):
            runs = [run for run in case["runs"] if run["arrivals"] == spacing]
            tails = [f"{Spread.of([run[at] for run in runs]):.2f}" for at in ("p50", "p90", "p99", "p99.9", "max")]
            lag = f"{max(run['lag']['p99'] for run in runs):.2f}, {max(run['lag']['max'] for run in runs):.2f}"
            failed = sum(run["failed"] for run in runs)
            ratio = f"{tail_ratio(numbers, int(count), spacing):.1f}"
            rows.append((count, f"{case['rate']:.0f}", spacing, *tails, ratio, failed, lag))
    head = (
        "candidates", "requests/s", "arrivals", "p50, ms", "p90", "p99", "p99.9", "max", "p99 / p50", "failed",
        "generator late: p99, max, ms",
    )  # fmt: skip
    many = numbers["many"]
    return (
        f"{markdown_table(head, rows)}\n\n"
        f"{many['requests']:,} requests of {MANY_COUNT} candidates at {many['rate']:.0f} a second: "
        f"{many['failed']:,} failed. p50 {many['p50']:.2f} ms, p99 {many['p99']:.2f}, max {many['max']:.2f}.\n\n"
        "Random arrivals meet in any queue: one server that takes equally long for each request, without any other "
        f"disturbance, has p99 = {queue_ratio(SHARE):.1f} p50 at this share of its peak (M/D/1). Arrivals at even "
        "intervals, as wrk2 and k6 send them, show the service's own spread."
    )
