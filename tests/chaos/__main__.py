"""Make troubles, print what came of them, and write docs/reliability.md.

usage: python -m tests.chaos [--short] [--only WORD] [--again] [--write docs/reliability.md]
       python -m tests.chaos --soak      half an hour of load: memory, descriptors, threads
       python -m tests.chaos --page      writes the page again from what is in var/chaos

A row that met its goal at this commit is not run again, so a killed run goes on where it was; --again runs it all the
same. --short runs some of the rows, in half their time, and keeps nothing. The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bench.serving.results import commit
from tests.chaos import (
    on_clients,
    on_cluster,
    on_feedback,
    on_files,
    on_jobs,
    on_models,
    on_processes,
    on_publication,
    on_redis,
    on_soak,
)
from tests.chaos.page import FOLDER, PAGE, Page, save, write_page
from tests.chaos.rows import ROWS, Outcome, Row
from tests.chaos.stand import new_stand

PARTS = (
    on_redis, on_cluster, on_feedback, on_publication, on_jobs, on_files, on_models, on_processes, on_clients, on_soak
)  # fmt: skip
"""Importing them registers their rows."""

SOAK = "soak"
LONGEST_REASON = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or servers would be left behind
    rows = [row for row in ROWS.values() if given.only in row.name]
    if given.short:
        rows = [row for row in rows if row.short]
    if not given.only:
        rows = [row for row in rows if (row.name == SOAK) == given.soak]
    if not rows:
        parser.error(f"no row has {given.only!r} in its name; there are {', '.join(ROWS)}")
    missed, began = [], time.monotonic()
    if not given.page:
        with tempfile.TemporaryDirectory(prefix="lorank-chaos-") as scratch:
            for row in rows:
                if given.short or given.again or not _is_known(row):
                    missed += [row.name] * (not _run(row, Path(scratch) / row.name, short=given.short))
        print(f"{len(rows)} rows in {time.monotonic() - began:.0f} s; goal missed: {', '.join(missed) or 'nowhere'}")
    if given.page or (given.write and not given.short):
        write_page(given.write or PAGE)
        print(f"written: {given.write or PAGE}")
    if missed:
        sys.exit(1)


def _is_known(row: Row) -> bool:
    result = Page.load().results.get(row.name)
    if result is None or row.fails(result.outcome):
        return False
    return result.commit == commit("tests") and not result.commit.endswith("+")


def _run(row: Row, folder: Path, *, short: bool, results: Path = FOLDER) -> bool:
    """Whether every goal is met that the row's floor does not excuse. A row that raises has missed its goal."""
    began = time.monotonic()
    try:
        with new_stand(folder, short=short) as stand:
            outcome = row.make(stand)
    except Exception as error:  # noqa: BLE001 - a row that cannot be made keeps no other from being made
        traceback.print_exc()
        outcome = Outcome(missed=(_in_a_line(error),))
    seconds = time.monotonic() - began
    if not short:
        save(row.name, seconds, outcome, results)
    beyond = row.goal.missed_by(outcome)
    verdict = f"goal missed: {', '.join(beyond)}" if beyond else "goal met"
    print(f"{row.name}: {verdict}; {_words(outcome)} ({seconds:.0f} s)", flush=True)
    return not row.fails(outcome)


def _in_a_line(error: Exception) -> str:
    """An error, short enough for a cell of the page."""
    words = " ".join(str(error).replace("|", "/").split())
    return f"{type(error).__name__}: {words[:LONGEST_REASON]}"


def _words(outcome: Outcome) -> str:
    """What is not as it always is."""
    fields = outcome.model_dump(exclude_defaults=True)
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items()
    )


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    main()
