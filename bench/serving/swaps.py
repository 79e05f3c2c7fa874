"""Goal 6, the second half: what a release swap does to requests that arrive meanwhile.

Two releases of the same items are published before, of which the service has only one when it is started. During the
measurement only the pointer in Redis is moved, to the other one, which the service has never mapped, and back to the
first, while requests arrive at even intervals at 60 % of the peak. A request is "at a swap" if it arrives between the
moving of the pointer and a second after the service has said that it serves the other release. It is compared with
those before the first swap: what comes after one may still wait behind what the swap has held up.
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

from bench.serving.installed import CANDIDATES, LOAD_CORE, SERVER_CORE, Effort, Installed, Workbench
from bench.serving.results import Numbers
from bench.serving.servers import Server, get, ours, pinned
from bench.serving.spread import Spread, markdown_table
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
    """Milliseconds p50, p99 and max with and without a swap, what failed, and how long swaps took, in alternating
    rounds of a service on one core, and of one that may use the other core, too, which Redis and the load generator
    leave half idle. Each round starts a service that knows the first release only."""
    effort, world = workbench.effort, workbench.large_world()
    first = live_release(world.store)
    assert first is not None
    second = publish_world(world.world, world.store, world.folder / "jobs", weights=1).release
    bodies = world.bodies("top50", CANDIDATES)
    cases: dict[str, list[Any]] = {name: [] for name in CORES}
    for number in range(effort.rounds):
        for name in sorted(cases, reverse=bool(number % 2)):
            if (live := live_release(world.store)) != first:
                switch(world.store, live, first)
            cases[name].append(_swaps_under_load(world, CORES[name], bodies, (first, second), effort))
    return {"items": world.world.items, "cases": cases}


def _swaps_under_load(
    world: Installed, cores: tuple[int, ...], bodies: Path, releases: tuple[str, str], effort: Effort
) -> dict[str, Any]:
    """One round: to the second release and back to the first, which is live before."""
    first, second = releases
    shutil.rmtree(world.folder / "data", ignore_errors=True)
    with ours(world, cores=cores) as server:
        rate = SHARE * peak_of(server, bodies, effort.seconds)
        calm = effort.steady_seconds / 2
        path = world.folder / "swaps.npy"
        with _load(server, bodies, rate, path) as load:
            time.sleep(calm)
            swaps = {}
            for kind, release in zip(SWAPS, (second, first), strict=True):
                began = time.perf_counter()
                _swap(world, server, release)
                swaps[kind] = (began, time.perf_counter())
                time.sleep(CALM_SECONDS + calm)
            load.terminate()
            output, _ = load.communicate()
    start = json.loads(output.splitlines()[-1])["start"]
    windows = {kind: (began - start, end - start + CALM_SECONDS) for kind, (began, end) in swaps.items()}
    seconds = {kind: end - began for kind, (began, end) in swaps.items()}
    return {"rate": rate, "seconds": seconds} | _compared(_read(path), windows)


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


def added(numbers: Numbers, case: str, kind: str) -> Spread:
    """Milliseconds that a swap adds to p99: of each round its own calm."""
    return Spread.of([each[kind]["p99"] - each["calm"]["p99"] for each in numbers["cases"][case]])


def failed(numbers: Numbers, case: str) -> int:
    """Requests of all rounds that were not answered well."""
    return sum(each[when]["failed"] for each in numbers["cases"][case] for when in WHEN)


def swaps_section(numbers: Numbers) -> str:
    """Markdown: a row for each case and window."""
    rows = []
    for case, rounds in numbers["cases"].items():
        for when, label in WHEN.items():
            windows = [each[when] for each in rounds]
            tails = (f"{Spread.of([window[at] for window in windows]):.2f}" for at in ("p50", "p99"))
            longest = f"{max(window['max'] for window in windows):.2f}"
            requests, wrong = (sum(window[what] for window in windows) for what in ("requests", "failed"))
            seconds = f"{Spread.of([each['seconds'][when] for each in rounds]):.1f}" if when in SWAPS else ""
            rate = f"{Spread.of([each['rate'] for each in rounds]):.0f}"
            rows.append((case, rate, label, f"{requests:,}", *tails, longest, wrong, seconds))
    head = (
        "service on", "requests/s", "requests that arrive", "number", "p50, ms", "p99", "longest of all", "failed",
        "the swap takes, s",
    )  # fmt: skip
    return (
        f"Releases of {numbers['items']:,} items, under requests of {CANDIDATES} candidates at {SHARE:.0%} of the "
        f"peak; median of {len(next(iter(numbers['cases'].values())))} rounds (least to most). A swap lasts from the "
        "moving of the pointer until the other release is served: its files are mapped and looked at byte by byte."
        "\n\n" + markdown_table(head, rows)
    )
