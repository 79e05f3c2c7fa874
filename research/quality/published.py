"""Results that others published on the same samples, and our goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "arXiv 2308.11131"


@dataclass(frozen=True, slots=True)
class Published:
    """A row as printed; of nobody's predictions, so without intervals."""

    model: str
    auc: float
    logloss: float


@dataclass(frozen=True, slots=True)
class Goal:
    """At least ``auc`` and at most ``logloss``, both, with frozen statistics."""

    auc: float
    logloss: float

    def is_met(self, auc: float, logloss: float) -> bool:
        return auc >= self.auc and logloss <= self.logloss


PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "ml-1m": (
        Published("DeepFM", 0.7915, 0.5484),
        Published("DCNv2", 0.7931, 0.5464),
        Published("DIN", 0.7962, 0.5425),
        Published("SIM", 0.7992, 0.5387),
        Published("ReLLa (13B LLM, less than 1 % of the rows)", 0.7927, 0.5475),
        Published("ReLLa (13B LLM, less than 10 % of the rows)", 0.8033, 0.5362),
    )
}
"""By the name of the data set."""
GOALS: Mapping[str, Goal] = {"ml-1m": Goal(0.8133, 0.5250)}
