"""Goal 6, the second half: what a release swap does to requests that arrive meanwhile.

Two releases of the same items are published before, of which the machine has only one when the service is started.
During the measurement only the pointer in Redis is moved, to the other one, which must be read and prepared first, and
back to the first, which still lies there, while requests arrive at even intervals at 60 % of the peak. A request is "at
a swap" if it arrives between the moving of the pointer and a second after the service has said that it serves the other
release. It is compared with those before the first swap: what comes after one may still wait behind what the swap has
held up.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.serving.installed import CANDIDATES, LOAD_CORE, SERVER_CORE, Installed, Workbench
from bench.serving.results import Numbers
from bench.serving.servers import Server, get, ours, pinned
from bench.serving.spread import markdown_table
from bench.serving.tails import SHARE, peak_of
from bench.serving.world import publish_world
from offline.publish.release import live_release, switch

CALM_SECONDS = 1.0
SWAP_SECONDS, LONGEST_SECONDS = 180.0, 1800.0
LOOK_SECONDS = 0.25
SWAPS = ("new", "back")
WHEN = {
    "calm": "before any swap", "new": "at a swap to a new release", "back": "at a swap back", "after": "after either"
}  # fmt: skip
CORES = {"one core": (SERVER_CORE,), "both cores": (SERVER_CORE, LOAD_CORE)}


def measure_swaps(workbench: Workbench) -> Numbers:
    """Milliseconds p50, p99 and max with and without a swap, what failed, and how long swaps took: of a service on one
    core, and of one that may use the other core, too, which Redis and the load generator leave half idle."""
    effort, world = workbench.effort, workbench.large_world()
    first = live_release(world.store)
    assert first is not None
    second = publish_world(world.world, world.store, world.folder / "jobs", weights=1).release
    bodies = world.bodies("top50", CANDIDATES)
    cases = {}
    for name, cores in CORES.items():
        shutil.rmtree(world.folder / "data", ignore_errors=True)
        with ours(world, cores=cores) as server:
            rate = SHARE * peak_of(server, bodies, effort.seconds)
            calm = effort.steady_seconds
            path = world.folder / "swaps.npy"
            with _load(server, bodies, rate, path) as load:
                time.sleep(calm)
                swaps = {}
                for kind in SWAPS:
                    began = time.perf_counter()
                    _swap(world, server, second if live_release(world.store) == first else first)
                    swaps[kind] = (began, time.perf_counter())
                    time.sleep(CALM_SECONDS + calm / 2)
                load.terminate()
                output, _ = load.communicate()
        start = json.loads(output.splitlines()[-1])["start"]
        windows = {kind: (began - start, end - start + CALM_SECONDS) for kind, (began, end) in swaps.items()}
        seconds = {kind: end - began for kind, (began, end) in swaps.items()}
        cases[name] = {"rate": rate, "seconds": seconds} | _compared(_read(path), windows)
    return {"items": world.world.items, "cases": cases}


@contextmanager
def _load(server: Server, bodies: Path, rate: float, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Requests at even intervals, until it is terminated; their latencies go to ``path``."""
    where = [server.url, str(bodies), str(rate), str(LONGEST_SECONDS)]
    command = [*where, "--arrivals", "constant", "--latencies", str(path)]
    load = subprocess.Popen(
        pinned((LOAD_CORE,), sys.executable, "-m", "bench.serving.arrivals", *command), stdout=subprocess.PIPE
    )
    try:
        yield load
    finally:
        load.kill()
        load.wait()


def _swap(world: Installed, server: Server, to: str) -> float:
    """Move the pointer, and wait until the release is served. Seconds. RuntimeError if it never is."""
    began = time.perf_counter()
    switch(world.store, live_release(world.store), to)
    while time.perf_counter() < began + SWAP_SECONDS:
        status = get(server.port, "/v1/status")
        if status is not None and (json.loads(status)["release"] or {}).get("id") == to:
            return time.perf_counter() - began
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"release {to} is not served after {SWAP_SECONDS:.0f} s")


def _read(path: Path) -> npt.NDArray[np.float64]:
    arrived: npt.NDArray[np.float64] = np.load(path)
    return arrived


def _compared(arrived: npt.NDArray[np.float64], windows: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """``arrived`` [n, 3]: when a request was due, its latency in seconds, whether it was answered well."""
    due, latency, well = arrived.T
    first = min(began for began, _ in windows.values())
    chosen_by = {kind: (due >= began) & (due < end) for kind, (began, end) in windows.items()}
    swapping = np.logical_or.reduce([*chosen_by.values()])
    chosen_by |= {"calm": due < first, "after": (due >= first) & ~swapping}
    windows_of: dict[str, Any] = {}
    for name, chosen in chosen_by.items():
        taken = latency[chosen & np.isfinite(latency)] * 1000
        windows_of[name] = {f"p{at:g}": float(np.percentile(taken, at)) for at in (50, 99, 99.9)} | {
            "max": float(taken.max()), "requests": int(chosen.sum()), "failed": int((well[chosen] == 0).sum())
        }  # fmt: skip
    return windows_of


def added(numbers: Numbers, case: str, kind: str) -> float:
    """Milliseconds that a swap adds to p99."""
    case_numbers = numbers["cases"][case]
    return float(case_numbers[kind]["p99"] - case_numbers["calm"]["p99"])


def failed(numbers: Numbers, case: str) -> int:
    return sum(numbers["cases"][case][when]["failed"] for when in WHEN)


def swaps_section(numbers: Numbers) -> str:
    rows = []
    for case, case_numbers in numbers["cases"].items():
        for when, label in WHEN.items():
            tails = (f"{case_numbers[when][at]:.2f}" for at in ("p50", "p99", "p99.9", "max"))
            requests = f"{case_numbers[when]['requests']:,}"
            seconds = f"{case_numbers['seconds'][when]:.1f}" if when in SWAPS else ""
            rows.append(
                (case, f"{case_numbers['rate']:.0f}", label, requests, *tails, case_numbers[when]["failed"], seconds)
            )
    head = (
        "service on", "requests/s", "requests that arrive", "number", "p50, ms", "p99", "p99.9", "max", "failed",
        "the swap takes, s",
    )  # fmt: skip
    return (
        f"Releases of {numbers['items']:,} items, under requests of {CANDIDATES} candidates at {SHARE:.0%} of the peak."
        " A swap lasts from the moving of the pointer until the other release is served. A new release is read and "
        "prepared first, by another process of the lowest priority; going back finds what lies there."
        "\n\n" + markdown_table(head, rows)
    )
