"""Memory that Redis takes per user and per item, measured at a million records of each kind, and what that comes to.

The measurement is that of ``python -m bench.publishing``, which times the write path, too. What it told last lies in
var/bench/publishing.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench.serving.installed import Workbench
from bench.serving.results import FOLDER, Numbers
from bench.serving.spread import markdown_table
from offline.data.files import write_bytes

FORECASTS = (1_000_000, 10_000_000, 100_000_000)
SHARD_BYTES = 25e9
"""What one Redis is to hold: a node of 32 GB with room for copies on write."""

RECORD_LABELS = {
    "user profiles": "profile",
    "user histories": "history",
    "user knowledge": "knowledge, one space",
    "item features": "features of a release",
    "item knowledge": "knowledge, one space",
}


def measure_memory(workbench: Workbench) -> Numbers:
    """The report of ``bench.publishing``; for a quick effort of ten thousand records."""
    records = 1_000_000 if workbench.effort.name == "full" else 10_000
    command = [sys.executable, "-m", "bench.publishing", "--records", str(records)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    if workbench.effort.name == "full":
        write_bytes(FOLDER / "publishing.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


def shards(size: float) -> int:
    """Number of Redis servers that hold so many bytes."""
    return int(-(-size // SHARD_BYTES))


def memory_section(numbers: Numbers) -> str:
    each = numbers["bytes_per_record"]
    kinds = [(kind.split()[0], RECORD_LABELS.get(kind, kind), f"{size:.0f}") for kind, size in each.items()]
    kinds += [(side, "all", f"**{numbers[f'bytes_per_{side}']:.0f}**") for side in ("user", "item")]
    rows = []
    for count in FORECASTS:
        user, item = (count * numbers[f"bytes_per_{side}"] for side in ("user", "item"))
        rows.append((f"{count:,}", f"{user / 1e9:.1f}", shards(user), f"{item / 1e9:.1f}", shards(item)))
    head = ("of each", "users, GB", f"shards of {SHARD_BYTES / 1e9:.0f} GB", "items, GB", "shards")
    return (
        f"Measured with {numbers['records']:,} records of each kind, vectors of {numbers['dim']} numbers (float16), "
        f"{numbers['events']} events a user; keys and Valkey's own are counted.\n\n"
        + markdown_table(("", "record", "bytes"), kinds)
        + "\n\n"
        + markdown_table(head, rows)
        + "\n\n"
        + _writing(numbers)
    )


def _writing(numbers: Numbers) -> str:
    rows = []
    for kind, runs in numbers["kinds"].items():
        first, little = runs["first"], runs["one percent"]
        rows.append((
            kind, f"{first['per_second']:,}", f"{first['cpu_per_second']:,}", f"{runs['unchanged']['per_second']:,}",
            f"{little['written']:,}", f"{little['sets']:,}", f"{little['seconds']:.1f}",
        ))  # fmt: skip
    head = (
        "published", "records/s, first time", "per processor second", "records/s, nothing changed",
        "1 % changed: written", "keys set", "seconds",
    )  # fmt: skip
    return markdown_table(head, rows)


def slowest(numbers: Numbers) -> tuple[str, int]:
    """The kind of which fewest records per second are published at first, and how many those are."""
    rates = {kind: int(runs["first"]["per_second"]) for kind, runs in numbers["kinds"].items()}
    kind = min(rates, key=lambda kind_of: rates[kind_of])
    return kind, rates[kind]
