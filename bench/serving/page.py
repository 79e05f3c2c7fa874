"""docs/performance.md: what stands between markers is written from results, all else is its authors'."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.serving import (
    before,
    deployed,
    facts,
    figures,
    goals,
    memory,
    profiled,
    scaling,
    sides,
    start,
    swaps,
    tails,
    workers,
)
from bench.serving.results import Result
from offline.data.files import write_bytes

SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "facts": facts.section,
    "sides": sides.section,
    "deployed": deployed.section,
    "tails": tails.section,
    "profile": profiled.section,
    "before": before.section,
    "scaling": scaling.section,
    "workers": workers.section,
    "start": start.section,
    "swaps": swaps.section,
    "memory": memory.section,
}
ABSENT = "Not measured yet: `make bench`."


class PageError(ValueError):
    """The page has no place for a part; the message names the lines that it needs."""


def write(page: Path, found: Mapping[str, Result]) -> None:
    """Put what was found between the markers of the page, and its figures into the folder beside it."""
    text = page.read_text(encoding="utf-8")
    drawn = figures.draw({part: one.found for part, one in found.items()}, page.parent / "figures")
    text = placed(text, "goals", goals.markdown(found))
    for part, section in SECTIONS.items():
        content = _section(part, section, found[part], drawn) if part in found else ABSENT
        text = placed(text, part, content)
    write_bytes(page, text.encode())


def placed(text: str, name: str, content: str) -> str:
    """``text`` with the content between the markers ``performance NAME``. PageError if there are none."""
    start, end = f"<!-- performance {name} -->\n", f"<!-- /performance {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise PageError(f"the page has no place for {name}: it needs the lines {start.strip()} and {end}")
    before, rest = text.split(start)
    return f"{before}{start}{content}\n{end}{rest.split(end)[1]}"


def _section(part: str, section: Callable[[dict[str, Any]], str], one: Result, drawn: Mapping[str, str]) -> str:
    parts = [section(one.found)]
    if part in drawn:
        parts.append(f"![{drawn[part]}](figures/performance-{part}.svg)")
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one.at))
    quick = "" if one.effort == "full" else " **Measured in a hurry: these numbers mean nothing.**"
    parts.append(f"*{when}, commit {one.commit}, {one.seconds:.0f} s.*{quick}")
    return "\n\n".join(parts)
