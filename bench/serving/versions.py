"""Two versions side by side, in alternating rounds: requests per second, first start, swap to a new release.

usage: python -m bench.serving.versions OTHER_CHECKOUT [--items 1000000] [--rounds 3] [--write var/bench/versions.json]

Each version publishes two releases with its own jobs to its own Redis, before anything is measured; the other one's
processes are stopped meanwhile. Both run on the packages of this environment, and this file runs in both: the other
checkout must have the helpers of this one's bench/serving.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

MEASURED = (
    "requests_per_second",
    "start_seconds",
    "start_cpu_seconds",
    "calm_p99",
    "swap_p99",
    "added_p99",
    "swap_seconds",
    "failed",
)
_SIDE = "import runpy, sys; runpy.run_path(sys.argv[1])['side'](int(sys.argv[2]))"
_BUSY_SECONDS = 5.0
"""How long requests of 500 candidates follow each other without a pause."""
_RATE = 50.0
"""Requests a second of both versions: few, so that others on the machine make no queue of them."""


class Version:
    """A process that has published a checkout's two releases, and measures on request."""

    def __init__(self, checkout: Path, items: int) -> None:
        command = [sys.executable, "-c", _SIDE, str(Path(__file__).resolve()), str(items)]
        self._process = subprocess.Popen(
            command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, what: str) -> dict[str, Any]:
        """What the process answers. RuntimeError if it has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if what:
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                answer: dict[str, Any] = json.loads(line.removeprefix("answer "))
                return answer
        raise RuntimeError("a version has died")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def side(items: int) -> None:
    """The process of one version: publishes, then measures a round for every line of stdin."""
    from bench.serving.installed import FULL, Workbench
    from bench.serving.world import publish_world
    from offline.publish.release import live_release

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorank-versions-")))
        workbench = Workbench(replace(FULL, items=items), None, scratch, stack)
        began = time.perf_counter()
        world = workbench.large_world()
        first = live_release(world.store)
        published = time.perf_counter() - began
        second = publish_world(world.world, world.store, world.folder / "jobs", weights=1).release
        print("answer", json.dumps({"publish_seconds": published}), flush=True)
        for _ in sys.stdin:
            world.store.redis.set(world.store.keys.live, first or "")
            print("answer", json.dumps(_round(world, second)), flush=True)


def _round(world: Any, second: str) -> dict[str, float]:
    """Requests after a first start, and then a swap to a release that this machine has not served, under requests."""
    from bench.serving import swaps
    from bench.serving.installed import CANDIDATES
    from bench.serving.processes import cpu_seconds
    from bench.serving.servers import closed, ours

    shutil.rmtree(world.folder / "data", ignore_errors=True)
    bodies, path = world.bodies("top50", CANDIDATES), world.folder / "swaps.npy"
    with ours(world) as server:
        answer = {"start_seconds": server.ready_seconds, "start_cpu_seconds": cpu_seconds(server.pid)}
        answer["requests_per_second"] = closed(server, bodies, _BUSY_SECONDS)["requests_per_second"]
        with swaps._load(server, bodies, _RATE, path) as load:
            time.sleep(15.0)
            began = time.perf_counter()
            swaps._swap(world, server, second)
            ended = time.perf_counter()
            time.sleep(5.0)
            load.terminate()
            output, _ = load.communicate()
    start = json.loads(output.splitlines()[-1])["start"]
    compared = swaps._compared(swaps._read(path), {"new": (began - start, ended - start + swaps.CALM_SECONDS)})
    calm, swap = compared["calm"], compared["new"]
    return answer | {
        "calm_p99": calm["p99"], "swap_p99": swap["p99"], "added_p99": swap["p99"] - calm["p99"],
        "swap_seconds": ended - began, "failed": sum(window["failed"] for window in compared.values()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, default=Path("var/bench/versions.json"))
    options = parser.parse_args()
    versions: dict[str, Version] = {}
    rounds: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    try:
        for name, checkout in (("before", options.other), ("now", Path.cwd())):
            versions[name] = Version(checkout, options.items)
            print(f"{name}: published in {versions[name].ask('')['publish_seconds']:.0f} s", flush=True)
        for number in range(options.rounds):
            for name in sorted(rounds, reverse=bool(number % 2)):
                rounds[name].append(versions[name].ask("round"))
                print(name, json.dumps(rounds[name][-1]), flush=True)
    finally:
        for version in versions.values():
            version.close()
    options.write.parent.mkdir(parents=True, exist_ok=True)
    options.write.write_text(json.dumps({"items": options.items, "rounds": rounds}))
    for what in MEASURED:
        values = {name: [measured[what] for measured in of_version] for name, of_version in rounds.items()}
        middle = {
            name: f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for name, each in values.items()
        }
        before = statistics.median(values["before"])
        ratio = statistics.median(values["now"]) / before if before else float("nan")
        print(f"{what:18} before {middle['before']:28} now {middle['now']:28} ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
