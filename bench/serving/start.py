"""Goal 6, the first half: seconds from the start of the process until it says that it is ready, with many items."""

from __future__ import annotations

import shutil
from typing import Any

from bench.serving.installed import Laboratory
from bench.serving.large import SPACES, large
from bench.serving.processes import cpu_seconds, memory
from bench.serving.servers import ours
from bench.serving.spread import Spread, table

STARTS = 3


def measure(laboratory: Laboratory) -> dict[str, Any]:
    """``first``: in an empty data folder. ``again``: in the folder that the first has left."""
    world = laboratory.world(large(laboratory))
    found: dict[str, list[dict[str, float]]] = {"first": [], "again": []}
    for _ in range(STARTS):
        shutil.rmtree(world.folder / "data", ignore_errors=True)
        for kind in found:
            with ours(world) as server:
                taken = {"seconds": server.ready_seconds, "cpu_seconds": cpu_seconds(server.pid)}
                found[kind].append(taken | memory(server.pid))
    return {"items": world.world.items, "spaces": len(SPACES), "starts": found}


def ready_seconds(found: dict[str, Any], kind: str = "first") -> Spread:
    return Spread.of([one["seconds"] for one in found["starts"][kind]])


def section(found: dict[str, Any]) -> str:
    names = {"first": "first start, empty data folder", "again": "restart"}
    rows = []
    for kind, each in found["starts"].items():
        cpu, pss = (Spread.of([one[field] for one in each]) for field in ("cpu_seconds", "pss"))
        rows.append((names[kind], f"{ready_seconds(found, kind):.1f}", f"{cpu.middle:.1f}", f"{pss.middle:.0f}"))
    what = f"{found['items']:,} items, {found['spaces']} spaces"
    return table((what, "seconds until ready", "of processor time", "memory (PSS), MB"), rows)
