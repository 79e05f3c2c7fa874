"""Goal 6, the second half: what a release swap does to requests that arrive meanwhile.

Two releases of the same items are published before. During the measurement only the pointer in Redis is moved, back and
forth, while requests arrive at even intervals at 60 % of the peak. A request is "at a swap" if it arrives between the
moving of the pointer and a second after the service has said that it serves the other release.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.serving.installed import LOAD_CORE, Installed, Laboratory
from bench.serving.large import large
from bench.serving.servers import Server, get, ours, pinned
from bench.serving.spread import table
from bench.serving.tails import SHARE, peak_of
from bench.serving.world import publish_world
from offline.publish.release import live_release, switch

COUNT = 500
CALM_SECONDS = 1.0
SWAP_SECONDS = 120.0
LOOK_SECONDS = 0.25


def measure(laboratory: Laboratory) -> dict[str, Any]:
    """Milliseconds p50, p99 and max with and without a swap, what failed, and how long swaps took."""
    effort, world = laboratory.effort, laboratory.world(large(laboratory))
    first = live_release(world.store)
    assert first is not None
    second = publish_world(world.world, world.store, world.folder / "jobs", weights=1).release
    bodies = world.bodies("top50", COUNT)
    with ours(world) as server:
        rate = SHARE * peak_of(server, bodies, effort.seconds)
        calm = max(3.0, effort.steady_seconds / 2)
        # A swap first to learn how long one takes: then the load is told how long to last.
        taken = _swap(world, server, first)
        seconds = calm + effort.swaps * (taken * 2 + CALM_SECONDS + calm)
        path = world.folder / "swaps.npy"
        load = subprocess.Popen(
            pinned(
                (LOAD_CORE,), sys.executable, "-m", "bench.serving.arrivals", server.url, str(bodies), str(rate),
                str(seconds), "--arrivals", "constant", "--latencies", str(path),
            ),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            time.sleep(calm)
            swaps = []
            for number in range(effort.swaps):
                began = time.perf_counter()
                _swap(world, server, second if number % 2 == 0 else first)
                swaps.append((began, time.perf_counter()))
                time.sleep(CALM_SECONDS + calm)
        finally:
            told, _ = load.communicate()
    summary = json.loads(told.splitlines()[-1])
    return {
        "rate": rate,
        "items": world.world.items,
        "swap_seconds": [end - began for began, end in swaps],
    } | _compared(
        _read(path), [(began - summary["start"], end - summary["start"] + CALM_SECONDS) for began, end in swaps]
    )


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
    found: npt.NDArray[np.float64] = np.load(path)
    return found


def _compared(arrived: npt.NDArray[np.float64], windows: list[tuple[float, float]]) -> dict[str, Any]:
    """``arrived`` [n, 3]: when a request was due, its latency in seconds, whether it was answered well."""
    due, latency, well = arrived.T
    swapping = np.zeros(len(due), np.bool_)
    for began, end in windows:
        swapping |= (due >= began) & (due < end)
    found: dict[str, Any] = {}
    for name, chosen in (("swap", swapping), ("calm", ~swapping)):
        taken = latency[chosen & np.isfinite(latency)] * 1000
        found[name] = {f"p{at:g}": float(np.percentile(taken, at)) for at in (50, 99, 99.9)} | {
            "max": float(taken.max()), "requests": int(chosen.sum()), "failed": int((well[chosen] == 0).sum())
        }  # fmt: skip
    return found


def added(found: dict[str, Any]) -> float:
    """Milliseconds that a swap adds to p99."""
    return float(found["swap"]["p99"] - found["calm"]["p99"])


def section(found: dict[str, Any]) -> str:
    rows = [
        (name, f"{one['requests']:,}", *(f"{one[at]:.2f}" for at in ("p50", "p99", "p99.9", "max")), one["failed"])
        for name, one in (("at a swap", found["swap"]), ("otherwise", found["calm"]))
    ]
    taken = found["swap_seconds"]
    return (
        f"{len(taken)} swaps between two releases of {found['items']:,} items, {found['rate']:.0f} requests a second of "
        f"{COUNT} candidates; from the moving of the pointer until the other release is served: "
        f"{min(taken):.1f} to {max(taken):.1f} s.\n\n"
        + table(("requests that arrive", "number", "p50, ms", "p99", "p99.9", "max", "failed"), rows)
    )
