"""Goal 6, the first half: seconds from the start of the process until it says that it is ready, with many items."""

from __future__ import annotations

import shutil

from bench.serving.installed import LARGE_SPACES, Workbench
from bench.serving.processes import cpu_seconds, memory
from bench.serving.results import Numbers
from bench.serving.servers import ours
from bench.serving.spread import Spread, markdown_table

STARTS = 3


def measure_start(workbench: Workbench) -> Numbers:
    """``first``: in an empty data folder. ``again``: in the folder that the first has left."""
    world = workbench.large_world()
    numbers: dict[str, list[dict[str, float]]] = {"first": [], "again": []}
    for _ in range(STARTS):
        shutil.rmtree(world.folder / "data", ignore_errors=True)
        for kind in numbers:
            with ours(world) as server:
                taken = {"seconds": server.ready_seconds, "cpu_seconds": cpu_seconds(server.pid)}
                numbers[kind].append(taken | memory(server.pid))
    return {"items": world.world.items, "spaces": len(LARGE_SPACES), "starts": numbers}


def ready_seconds(numbers: Numbers, kind: str = "first") -> Spread:
    return Spread.of([start["seconds"] for start in numbers["starts"][kind]])


def start_section(numbers: Numbers) -> str:
    names = {"first": "first start, empty data folder", "again": "restart"}
    rows = []
    for kind, each in numbers["starts"].items():
        cpu, pss = (Spread.of([start[field] for start in each]) for field in ("cpu_seconds", "pss"))
        rows.append((names[kind], f"{ready_seconds(numbers, kind):.1f}", f"{cpu.middle:.1f}", f"{pss.middle:.0f}"))
    what = f"{numbers['items']:,} items, {numbers['spaces']} spaces"
    return markdown_table((what, "seconds until ready", "of processor time", "memory (PSS), MB"), rows)
