"""A few measurements of one thing, and tables of them for the page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest. As text: "0.60 (0.54 to 0.61)"; a format is that of each number."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        form = spec or ".2f"
        return f"{self.middle:{form}} ({self.low:{form}} to {self.high:{form}})"

    def __str__(self) -> str:
        return format(self, "")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
