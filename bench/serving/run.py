"""Ours, others' servers and the bare model side by side, in alternating order, on pinned cores.

usage: python -m bench.serving.run [--rounds 5] [--seconds 5] [--peers var/bench-env/bin/python]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.serving.installed import COUNTS
from bench.serving.open_loop import arriving
from bench.serving.servers import LOAD_CORE, SERVER_CORE, Installed, all_of, installed, measured, ours, pinned
from bench.serving.world import World

KINDS = ("top50", "all")
SHARE = 0.6
Measured = dict[str, float]


def compare(world: Installed, rounds: int, seconds: float, connections: int) -> dict[str, dict[str, list[Measured]]]:
    """Closed-loop results by case ("500 top50") and server."""
    found: dict[str, dict[str, list[Measured]]] = {}
    with ExitStack() as stack:
        urls = all_of(world, stack)
        for number in range(rounds):
            for count in COUNTS:
                names = [*urls, "bare"]
                for name in names if number % 2 == 0 else reversed(names):
                    if name == "bare":
                        one = measured(["bench.serving.bare", str(world.folder), str(count), str(seconds)], SERVER_CORE)
                        for kind in KINDS:
                            found.setdefault(f"{count} {kind}", {}).setdefault(name, []).append(one)
                        continue
                    for kind in KINDS:
                        bodies = str(world.folder / f"bodies-{count}-{kind}.jsonl")
                        one = measured(
                            ["bench.serving.closed", urls[name], bodies, str(connections), str(seconds)], LOAD_CORE
                        )
                        if one["errors"]:
                            raise RuntimeError(f"{name} failed {one['errors']} requests")
                        found.setdefault(f"{count} {kind}", {}).setdefault(name, []).append(one)
    return found


def tails(
    world: Installed, peaks: dict[int, float], k6: Path, seconds: float, share: float = 0.6
) -> dict[int, Measured]:
    """Open-loop results of ours by number of candidates, at a share of the peak load."""
    with ours(world) as url:
        return {
            count: arriving(
                pinned(LOAD_CORE, str(k6)), url, world.folder / f"bodies-{count}-top50.jsonl",
                rate=SHARE * peak, seconds=seconds,
            )
            for count, peak in peaks.items()
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--architecture", choices=["lifelong", "din"], default="lifelong")
    parser.add_argument("--peers", type=Path, help="Python of an environment with bench/requirements.txt")
    parser.add_argument("--open-seconds", type=float, default=20.0)
    wanted = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = stack.enter_context(installed(World(architecture=wanted.architecture), scratch, wanted.peers))
        found = compare(world, wanted.rounds, wanted.seconds, wanted.connections)
        tell(found)
        if not wanted.peers:
            return
        peaks = {
            count: statistics.median(one["requests_per_second"] for one in found[f"{count} top50"]["ours"])
            for count in COUNTS
        }
        for count, one in tails(world, peaks, wanted.peers.parent / "k6", wanted.open_seconds).items():
            print(
                f"{count} top50, {SHARE * peaks[count]:.0f}/s: p50 {one['p50']:.2f} ms, p99 {one['p99']:.2f} "
                f"({one['p99'] / one['p50']:.1f} p50), p99.9 {one['p99.9']:.2f}, max {one['max']:.2f}; "
                f"{one['requests']:.0f} requests, {one['failed']:.0f} failed, {one['dropped']:.0f} not sent"
            )


def tell(found: dict[str, dict[str, list[Measured]]]) -> None:
    for case, results in found.items():
        bare = [one["requests_per_second"] for one in results["bare"]]
        for name, each in results.items():
            rates = [one["requests_per_second"] for one in each]
            ratios = [rate / there for rate, there in zip(rates, bare, strict=True)]
            p99 = f"p99 {statistics.median(one['p99'] for one in each):6.2f} ms" if "p99" in each[0] else ""
            print(
                f"{case:10} {name:14} {statistics.median(rates):8.1f}/s ({min(rates):.0f} to {max(rates):.0f})  "
                f"{statistics.median(ratios):.2f} of bare ({min(ratios):.2f} to {max(ratios):.2f})  {p99}"
            )


if __name__ == "__main__":
    main()
