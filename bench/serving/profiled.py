"""A request's processor time by step: the running service under load, sampled by py-spy from outside."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.serving.installed import LOAD_CORE, CannotMeasureError, Installed, Workbench
from bench.serving.results import Numbers
from bench.serving.servers import CONNECTIONS, Server, closed, ours, pinned
from bench.serving.spread import markdown_table
from bench.serving.stacks import shares
from bench.serving.world import World

COUNTS = (100, 500)
SAMPLES_PER_SECOND = 400


def measure_profile(workbench: Workbench) -> Numbers:
    """By number of candidates: each step's share of the samples, and processor milliseconds per request, measured
    without the sampling. CannotMeasureError without py-spy, which comes with the peers' environment."""
    spy, world, numbers = spy_of(workbench), workbench.world(World()), {}
    with ours(world) as server:
        for count in COUNTS:
            bodies = world.bodies("top50", count)
            load = closed(server, bodies, workbench.effort.seconds)
            stacks = sampled(spy, world, server, bodies, workbench.effort.steady_seconds)
            numbers[str(count)] = {"cpu_ms": load["cpu_ms"], "shares": shares(stacks)}
    return numbers


def spy_of(workbench: Workbench) -> Path:
    """CannotMeasureError if there is no py-spy."""
    pythons = [python for python in (workbench.peers, Path(sys.executable)) if python is not None]
    spy = next((python.with_name("py-spy") for python in pythons if python.with_name("py-spy").exists()), None)
    if spy is None:
        raise CannotMeasureError("there is no py-spy: give --peers the Python of an environment that has it")
    return spy


def sampled(spy: Path, world: Installed, server: Server, bodies: Path, seconds: float) -> list[str]:
    """Stacks of all threads that were at work. A sample does not stop the service, so that a few are torn."""
    raw = world.folder / "samples.txt"
    load = subprocess.Popen(
        pinned(
            (LOAD_CORE,), sys.executable, "-m", "bench.serving.closed",
            server.url, str(bodies), str(CONNECTIONS), str(seconds + 2),
        ),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(1.5)
        command = [
            str(spy), "record", "--pid", str(server.pid), "--duration", str(max(1, round(seconds))), "--rate",
            str(SAMPLES_PER_SECOND), "--format", "raw", "--output", str(raw), "--nonblocking", "--threads",
        ]  # fmt: skip
        ended = subprocess.run(pinned((LOAD_CORE,), *command), capture_output=True, text=True)
        if ended.returncode:
            raise CannotMeasureError(f"py-spy failed: {ended.stderr.strip() or ended.stdout.strip()}")
    finally:
        load.wait()
    return raw.read_text().splitlines()


def profile_section(numbers: Numbers) -> str:
    counts = list(numbers)
    steps = sorted(numbers[counts[-1]]["shares"], key=lambda step: -numbers[counts[-1]]["shares"][step])
    steps += [step for step in numbers[counts[0]]["shares"] if step not in steps]
    rows: list[list[object]] = []
    for step in steps:
        cells: list[object] = [step]
        for case in numbers.values():
            share = case["shares"].get(step, 0.0)
            cells += [f"{share * case['cpu_ms'] * 1000:.0f}", f"{share:.1%}"]
        rows.append(cells)
    rows.append(["all", *(cell for case in numbers.values() for cell in (f"{case['cpu_ms'] * 1000:.0f}", ""))])
    head = ["step", *(cell for count in counts for cell in (f"{count} candidates, us", "share"))]
    return markdown_table(head, rows)
