"""docs/performance.md: what stands between markers is written from results, all else is its authors'."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.serving import (
    deployed,
    facts,
    figures,
    goals,
    memory,
    overload,
    profiled,
    scaling,
    sides,
    start,
    swaps,
    tails,
    workers,
)
from bench.serving.installed import Workbench
from bench.serving.results import Numbers, Result
from offline.data.files import write_bytes

PARTS: dict[str, tuple[Callable[[Workbench], Numbers], Callable[[Numbers], str]]] = {
    "facts": (lambda _: facts.facts(), facts.facts_section),
    "sides": (sides.measure_sides, sides.sides_section),
    "deployed": (deployed.measure_deployed, deployed.deployed_section),
    "tails": (tails.measure_tails, tails.tails_section),
    "overload": (overload.measure_overload, overload.overload_section),
    "profile": (profiled.measure_profile, profiled.profile_section),
    "scaling": (scaling.measure_scaling, scaling.scaling_section),
    "workers": (workers.measure_workers, workers.workers_section),
    "start": (start.measure_start, start.start_section),
    "swaps": (swaps.measure_swaps, swaps.swaps_section),
    "memory": (memory.measure_memory, memory.memory_section),
}
"""How each part is measured, and what the page says of it. In the order of measuring: the large world, which takes long
to publish, comes last."""
ABSENT = "Not measured yet: `make bench`."


class PageError(ValueError):
    """The page has no place for a part; the message names the lines that it needs."""


def write_page(page: Path, results: Mapping[str, Result]) -> None:
    """Put the results between the markers of the page, and its figures into the folder beside it."""
    text = page.read_text(encoding="utf-8")
    drawn = figures.draw({part: result.numbers for part, result in results.items()}, page.parent / "figures")
    text = placed(text, "goals", goals.goals_table(results))
    for part, (_, section) in PARTS.items():
        content = _section(part, section, results[part], drawn) if part in results else ABSENT
        text = placed(text, part, content)
    write_bytes(page, text.encode())


def placed(text: str, name: str, content: str) -> str:
    """``text`` with the content between the markers ``performance NAME``. PageError if there are none."""
    start, end = f"<!-- performance {name} -->\n", f"<!-- /performance {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise PageError(f"the page has no place for {name}: it needs the lines {start.strip()} and {end}")
    before, rest = text.split(start)
    return f"{before}{start}{content}\n{end}{rest.split(end)[1]}"


def _section(part: str, section: Callable[[Numbers], str], result: Result, drawn: Mapping[str, str]) -> str:
    parts = [section(result.numbers)]
    if part in drawn:
        parts.append(f"![{drawn[part]}](figures/performance-{part}.svg)")
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(result.at))
    quick = "" if result.effort == "full" else " **Measured in a hurry: these numbers mean nothing.**"
    parts.append(f"*{when}, commit {result.commit}, {result.seconds:.0f} s.*{quick}")
    return "\n\n".join(parts)
