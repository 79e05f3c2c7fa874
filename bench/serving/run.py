"""Measure the goals of speed, print them, and write docs/performance.md.

usage: python -m bench.serving.run [--only sides,tails] [--again] [--quick] [--peers var/bench-env/bin/python]
       python -m bench.serving.run --page      writes the page again from what is in var/bench

Each part keeps its numbers in var/bench/PART.json. A part that was measured at this commit is not measured again,
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
from contextlib import ExitStack
from pathlib import Path

from bench.serving import results
from bench.serving.goals import goals_text
from bench.serving.installed import FULL, QUICK, CannotMeasureError, Workbench
from bench.serving.page import PARTS, write_page

PAGE = Path("docs/performance.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, of: " + ", ".join(PARTS))
    parser.add_argument("--peers", type=Path, help="Python of an environment with bench/requirements.txt")
    parser.add_argument("--again", action="store_true", help="measure what was measured, too")
    parser.add_argument("--quick", action="store_true", help="see that it runs; the numbers mean nothing")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--write", type=Path, default=PAGE)
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if strangers := set(parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(strangers))}; there are {', '.join(PARTS)}")
    effort = QUICK if arguments.quick else FULL
    folder = results.FOLDER / "quick" if arguments.quick else results.FOLDER
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or servers would be left behind
    failed = False
    if (load := os.getloadavg()[0]) > 0.5 and not arguments.page:
        print(f"others use this machine (load {load:.1f}): what is measured now says little", flush=True)
    if not arguments.page:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lorank-bench-")))
            workbench = Workbench(effort, arguments.peers, scratch, stack)
            for part in PARTS:
                if part in parts:
                    failed |= not _measure(part, workbench, folder, arguments.again)
    measured = {part: result for part in PARTS if (result := results.load_result(part, folder)) is not None}
    print(goals_text(measured))
    if not arguments.quick:
        write_page(arguments.write, measured)
        print(f"written: {arguments.write}")
    if failed:
        sys.exit(1)


def _measure(part: str, workbench: Workbench, folder: Path, again: bool) -> bool:
    """Whether it went well, which it also did if there was nothing to do."""
    before = results.load_result(part, folder)
    if before is not None and before.commit == results.commit() and not before.commit.endswith("+") and not again:
        print(f"{part}: measured before, at {time.strftime('%H:%M', time.localtime(before.at))}", flush=True)
        return True
    print(f"{part} ...", flush=True)
    began = time.perf_counter()
    try:
        numbers = PARTS[part][0](workbench)
    except CannotMeasureError as reason:
        print(f"{part}: skipped, {reason}", flush=True)
        return True
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"{part}: failed, {error}", flush=True)
        return False
    taken = time.perf_counter() - began
    results.save_result(part, workbench.effort.name, taken, numbers, folder)
    print(f"{part}: {taken:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
