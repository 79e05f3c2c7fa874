"""Measure the goals of speed, print them, and write docs/performance.md.

usage: python -m bench.serving.run [--only sides,tails] [--again] [--quick] [--peers var/bench-env/bin/python]
       python -m bench.serving.run --page      writes the page again from what is in var/bench

Each part keeps what it found in var/bench/PART.json. A part that was measured at this commit is not measured again,
so a killed run goes on where it was; --again measures all the same. Quick results stay apart, in var/bench/quick.
A part that fails is told and does not keep the others from being measured; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.serving import (
    before,
    deployed,
    memory,
    page,
    profiled,
    results,
    scaling,
    sides,
    start,
    swaps,
    tails,
    workers,
)
from bench.serving.effort import FULL, QUICK
from bench.serving.facts import facts
from bench.serving.goals import told
from bench.serving.installed import CannotMeasureError, Laboratory

PARTS: dict[str, Callable[[Laboratory], dict[str, Any]]] = {
    "facts": lambda _: facts(),
    "sides": sides.measure,
    "deployed": deployed.measure,
    "tails": tails.measure,
    "profile": profiled.measure,
    "before": before.measure,
    "scaling": scaling.measure,
    "workers": workers.measure,
    "start": start.measure,
    "swaps": swaps.measure,
    "memory": memory.measure,
}
"""In this order: the large world, which takes long to publish, comes last."""

PAGE = Path("docs/performance.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, of: " + ", ".join(PARTS))
    parser.add_argument("--peers", type=Path, help="Python of an environment with bench/requirements.txt")
    parser.add_argument("--again", action="store_true", help="measure what was measured, too")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--write", type=Path, default=PAGE)
    wanted = parser.parse_args()
    parts = wanted.only.split(",")
    if strangers := set(parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(strangers))}; there are {', '.join(PARTS)}")
    effort = QUICK if wanted.quick else FULL
    folder = results.FOLDER / "quick" if wanted.quick else results.FOLDER
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or servers would be left behind
    failed = False
    if (load := os.getloadavg()[0]) > 0.5 and not wanted.page:
        print(f"others use this machine (load {load:.1f}): what is measured now says little", flush=True)
    if not wanted.page:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorank-bench-")))
            laboratory = Laboratory(effort, wanted.peers, scratch, stack)
            for part in PARTS:
                if part in parts:
                    failed |= not _measured(part, laboratory, folder, wanted.again)
    found = {part: one for part in PARTS if (one := results.held(part, folder)) is not None}
    print(told(found))
    if not wanted.quick:
        page.write(wanted.write, found)
        print(f"written: {wanted.write}")
    if failed:
        sys.exit(1)


def _measured(part: str, laboratory: Laboratory, folder: Path, again: bool) -> bool:
    """Whether it went well, which it also did if there was nothing to do."""
    before = results.held(part, folder)
    if before is not None and before.commit == results.commit() and not before.commit.endswith("+") and not again:
        print(f"{part}: measured before, at {time.strftime('%H:%M', time.localtime(before.at))}", flush=True)
        return True
    print(f"{part} ...", flush=True)
    began = time.perf_counter()
    try:
        found = PARTS[part](laboratory)
    except CannotMeasureError as reason:
        print(f"{part}: skipped, {reason}", flush=True)
        return True
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"{part}: failed, {error}", flush=True)
        return False
    taken = time.perf_counter() - began
    results.keep(part, laboratory.effort.name, taken, found, folder)
    print(f"{part}: {taken:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
