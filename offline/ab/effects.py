"""The table of effects: every metric of every arm against control, now and at earlier moments; and how large an effect
the units can show.

The test behind a power is the normal one, which is Welch's from some tens of units on. Its power depends on nothing but
the effect in standard errors of the difference, so that effect is what is solved for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy.optimize import brentq  # type: ignore[import-untyped]  # has no types
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]  # has no types

from offline.ab.difference import NAN, AlwaysValid, Difference, Mixture, accumulate, always_valid, compare, cuped, holm
from offline.ab.inputs import AnalysisSettings
from offline.ab.metrics import METRICS, ArmSums, Metric, arm_sums, request_sums

POWER = 0.8


@dataclass(frozen=True, slots=True)
class InterimAnalysis:
    """The state of one effect at ``time_ms``, of all exposures and clicks until then. ``p_running`` is the least
    always-valid p so far: an experiment may be stopped as soon as it is below alpha."""

    time_ms: int
    absolute: float
    always_valid: AlwaysValid
    p_running: float


@dataclass(frozen=True, slots=True)
class Effect:
    """One metric of one arm against control.

    difference    fixed-horizon: read it once, at the planned end
    p_holm        its p, adjusted over the arms of this metric
    always_valid  may be read at any time
    cuped         the difference with the pre-period taken out; None for metrics that have none
    reduction     share of the variance that this took away; NaN without
    detectable    the effect, in the metric's unit, that this many units find with a power of 0.8; NaN without variance
    interim       analyses, earlier and present, oldest first
    """

    metric: str
    meaning: str
    better: Literal["higher", "lower"]
    arm: str
    difference: Difference
    p_holm: float
    always_valid: AlwaysValid
    cuped: Difference | None
    reduction: float
    detectable: float
    interim: tuple[InterimAnalysis, ...]


def effects(
    sums: Mapping[str, ArmSums], past: Mapping[int, Mapping[str, ArmSums]], settings: AnalysisSettings
) -> tuple[Effect, ...]:
    """Every metric that both arms have, of all arms but control, from the sums of each arm now and, by time, at each
    look of ``past``."""
    mixture = Mixture(settings.planned_units, settings.alpha)
    compared = []
    for metric in METRICS:
        rows = dict(_differences(metric, sums, settings))
        earlier = {time: dict(_differences(metric, then, settings)) for time, then in past.items()}
        adjusted = holm([row.p for row in rows.values()])
        for (arm, row), p_holm in zip(rows.items(), adjusted, strict=True):
            without, reduction = _without_past(metric, sums[arm], sums[settings.control], settings.alpha)
            interim = _interim({time: then[arm] for time, then in earlier.items() if arm in then}, mixture)
            compared.append(Effect(
                metric.name, metric.meaning, metric.better, arm, row, p_holm, always_valid(row, mixture),
                cuped=without, reduction=reduction, detectable=_detectable(row, settings.alpha), interim=interim,
            ))  # fmt: skip
    return tuple(compared)


def past_sums(
    exposures: pl.DataFrame, clicks: pl.DataFrame, history: pl.DataFrame, count: int
) -> dict[int, dict[str, ArmSums]]:
    """Sums of every arm at so many times, equally spaced from the first exposure to the last event, by time."""
    first, last = int(exposures["time_ms"].min()), int(exposures["time_ms"].max())  # type: ignore[arg-type]
    if clicks.height:
        last = max(last, int(clicks["time_ms"].max()))  # type: ignore[arg-type]
    times = np.unique(np.linspace(first, last, count + 1).astype(np.int64)[1:]).tolist()
    until = pl.col("time_ms")
    return {
        time: arm_sums(request_sums(exposures.filter(until <= time), clicks.filter(until <= time)), history)
        for time in times
    }


def _differences(
    metric: Metric, sums: Mapping[str, ArmSums], settings: AnalysisSettings
) -> Iterator[tuple[str, Difference]]:
    """Differences of the arms in which, and in control, there is enough to measure, in the order of the weights."""
    for arm in settings.weights:
        if arm != settings.control and arm in sums and settings.control in sums:
            with suppress(ValueError):
                yield arm, compare(metric.values(sums[arm]), metric.values(sums[settings.control]), settings.alpha)


def _without_past(
    metric: Metric, treatment: ArmSums, control: ArmSums, alpha: float
) -> tuple[Difference | None, float]:
    if not metric.with_history:
        return None, NAN
    adjusted = cuped(metric.values(treatment), metric.values(control), treatment.history, control.history)
    return compare(adjusted.treatment, adjusted.control, alpha), adjusted.reduction


def _detectable(row: Difference, alpha: float) -> float:
    if not row.low < row.high:
        return NAN
    # The variance of one unit's value that gives the variance of the difference, if it were the same in both arms.
    variance = row.variance / (1 / row.control_units + 1 / row.treatment_units)
    return detectable_effect(variance, row.control_units, row.treatment_units, alpha=alpha)


def _interim(rows: Mapping[int, Difference], mixture: Mixture) -> tuple[InterimAnalysis, ...]:
    valid = tuple(always_valid(row, mixture) for row in rows.values())
    lowest = (bounds.p for bounds in accumulate(valid))
    pairs = zip(rows.items(), valid, lowest, strict=True)
    return tuple(InterimAnalysis(time, row.absolute, bounds, p) for (time, row), bounds, p in pairs)


def power(effect: float, variance: float, control_units: float, treatment_units: float, alpha: float = 0.05) -> float:
    """Probability of p < alpha, two-sided, if the arms differ by ``effect`` in the metric's unit; ``variance`` is that
    of one unit's value."""
    standard_errors = abs(effect) / _standard_error(variance, control_units, treatment_units)
    bound = ndtri(1 - alpha / 2)
    return float(ndtr(standard_errors - bound) + ndtr(-standard_errors - bound))


def detectable_effect(
    variance: float, control_units: float, treatment_units: float, chance: float = POWER, alpha: float = 0.05
) -> float:
    """Smallest effect, in the metric's unit, that is found with this power. ValueError unless that is between alpha
    and 1."""
    if not alpha < chance < 1:
        raise ValueError("a power lies between alpha and 1")
    unit = _standard_error(variance, control_units, treatment_units)
    one_sided = ndtri(1 - alpha / 2) + ndtri(chance)  # has the power within one bound alone, so it is never too little

    def excess(standard_errors: float) -> float:
        return power(standard_errors * unit, variance, control_units, treatment_units, alpha) - chance

    return unit * float(brentq(excess, 0.0, one_sided + 1.0, xtol=1e-12))


def _standard_error(variance: float, control_units: float, treatment_units: float) -> float:
    """Standard error of the difference of two means."""
    if not (variance > 0 and np.isfinite(variance)):
        raise ValueError("the variance must be positive and finite")
    if min(control_units, treatment_units) < 2:
        raise ValueError("a comparison takes two units in each arm")
    return float(np.sqrt(variance * (1 / control_units + 1 / treatment_units)))
