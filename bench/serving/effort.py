"""How long and how often a benchmark measures: in full, or quickly, to see that it runs. Quick numbers mean nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """``rounds`` of ``seconds`` each for what is compared in alternation; ``steady_seconds`` at one rate of arrivals;
    ``many`` requests at one go; ``items`` of the world that is large, ``item_counts`` and ``user_counts`` of those that
    are compared."""

    name: str
    rounds: int
    seconds: float
    steady_seconds: float
    many: int
    items: int
    item_counts: tuple[int, ...]
    user_counts: tuple[int, ...]


FULL = Effort("full", 5, 2.0, 15.0, 100_000, 1_000_000, (10_000, 100_000, 1_000_000), (1_000, 10_000, 100_000))
QUICK = Effort("quick", 2, 0.7, 3.0, 2_000, 20_000, (10_000, 20_000), (1_000, 2_000))
