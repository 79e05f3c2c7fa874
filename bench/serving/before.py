"""A request's processor time by step, before the work on speed and now: both services on one world.

The service of ``COMMIT`` runs from that commit's own files, on the packages of this environment and on one that only
it needed, which the peers' environment has. Both are measured in alternating rounds, each sampled by py-spy
afterwards; the steps are those of bench/serving/stacks.py, whose names of files hold for both.
"""

from __future__ import annotations

import io
import shutil
import statistics
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from bench.serving.installed import CannotMeasureError, Workbench
from bench.serving.processes import pause, resume
from bench.serving.profiled import COUNTS, sampled, spy_of
from bench.serving.results import Numbers
from bench.serving.servers import closed, ours
from bench.serving.spread import markdown_table
from bench.serving.stacks import shares
from bench.serving.world import World

COMMIT = "014ae62"
"""The last one before the work on speed began (2026-11-22)."""

NEEDED = "orjson"


def measure_before(workbench: Workbench) -> Numbers:
    """By number of candidates, of both services: processor milliseconds per request by round, and shares of the steps.
    CannotMeasureError without py-spy, without ``NEEDED``, or without the history of this repository."""
    spy, world = spy_of(workbench), workbench.world(World())
    code = _code(workbench)
    numbers: dict[str, Any] = {"commit": COMMIT}
    folder_of_its_own = {"data_dir": str(world.folder / "before")}
    with ours(world) as now, ours(world, folder_of_its_own, code=code) as before:
        servers = {"before": before, "now": now}
        for count in COUNTS:
            bodies = world.bodies("top50", count)
            costs: dict[str, list[float]] = {name: [] for name in servers}
            for round_ in range(workbench.effort.rounds):
                for name in sorted(servers, reverse=bool(round_ % 2)):
                    other = servers["now" if name == "before" else "before"]
                    pause(other.pid)
                    costs[name].append(closed(servers[name], bodies, workbench.effort.seconds)["cpu_ms"])
                    resume(other.pid)
            numbers[str(count)] = {
                name: {
                    "cpu_ms": costs[name],
                    "shares": shares(sampled(spy, world, server, bodies, workbench.effort.steady_seconds)),
                }
                for name, server in servers.items()
            }
    return numbers


def before_section(numbers: Numbers) -> str:
    parts = []
    for count in map(str, COUNTS):
        both = numbers[count]
        costs = {name: statistics.median(both[name]["cpu_ms"]) * 1000 for name in both}
        ratios = [now / then for then, now in zip(both["before"]["cpu_ms"], both["now"]["cpu_ms"], strict=True)]
        steps = sorted(
            {*both["before"]["shares"], *both["now"]["shares"]},
            key=lambda step: -both["before"]["shares"].get(step, 0.0) * costs["before"],
        )
        rows: list[list[object]] = [
            [step, *(f"{both[name]['shares'].get(step, 0.0) * costs[name]:.0f}" for name in ("before", "now"))]
            for step in steps
        ]
        rows.append(["all", *(f"{costs[name]:.0f}" for name in ("before", "now"))])
        head = [f"step, {count} candidates", f"before ({numbers['commit']}), us", "now, us"]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        parts.append(markdown_table(head, rows) + f"\n\nNow over before, round by round: {spread}.\n")
    return "\n".join(parts)


def _code(workbench: Workbench) -> Path:
    """The service's files as they were, and what they need beside ours."""
    peers = workbench.peers
    packages = [] if peers is None else [*peers.parent.parent.glob(f"lib/python*/site-packages/{NEEDED}")]
    needed = next(iter(packages), None)
    if needed is None:
        raise CannotMeasureError(f"{COMMIT} needs {NEEDED}: give --peers the Python of an environment that has it")
    folder = workbench.scratch / "before"
    command = ["git", "archive", "--format=tar", COMMIT, "service", "models"]
    ended = subprocess.run(command, capture_output=True)
    if ended.returncode:
        raise CannotMeasureError(f"{COMMIT} is not in this repository: {ended.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(ended.stdout)) as files:
        files.extractall(folder, filter="data")
    shutil.copytree(needed, folder / NEEDED)
    return folder
