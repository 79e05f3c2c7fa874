"""What an analysis finds, in frozen values that know how to become a JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from offline.ab.attribution import AttributionCounts
from offline.ab.effects import Effect
from offline.ab.interleaving import Interleaving
from offline.ab.mismatch import Breakdown, MultipleExposure, Ratio
from offline.ab.shadow import OffPolicy


@dataclass(frozen=True, slots=True)
class ExposureCounts:
    """What became of every exposure; ``analysed`` and what follows add up to ``rows``. ``left_out`` counts, by how the
    unit came into its arm, what was not split; ``several_arms`` the exposures of units seen in more than one arm."""

    rows: int
    analysed: int
    replayed: int
    before_start: int
    several_arms: int
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What was analysed of one arm, which is ``weight`` of the configured split (a share of 1)."""

    arm: str
    weight: float
    units: int
    requests: int
    shown: int
    clicks: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that is known of one experiment. Read ``warnings`` and ``ratio`` before ``effects``."""

    control: str
    alpha: float
    start_ms: int
    first_ms: int
    last_ms: int
    exposures: ExposureCounts
    arms: tuple[ArmCounts, ...]
    ratio: Ratio
    breakdowns: tuple[Breakdown, ...]
    multiple: MultipleExposure
    attribution: AttributionCounts
    effects: tuple[Effect, ...]
    interleaving: dict[str, Interleaving]
    off_policy: tuple[OffPolicy, ...]
    settings: dict[str, Any]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON has it: lists for tuples, null for what is not a finite number."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
