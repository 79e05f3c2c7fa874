"""How large an effect an experiment can see: power, detectable effect and needed units of a comparison of two arms.

``variance`` is that of one unit's value (offline/experiments/influence.py): of a ratio metric, the delta method's. The
test is the normal one, which is Welch's from some tens of units on: statsmodels' solver for the t-test fails on one in
a hundred pairs of sizes, and then gives effects that are negative or no number.
"""

from __future__ import annotations

import numpy as np
from statsmodels.stats.power import NormalIndPower


def power(effect: float, variance: float, control_units: float, treatment_units: float, alpha: float = 0.05) -> float:
    """Probability of p < alpha, two-sided, if the arms differ by ``effect`` in the metric's unit."""
    size = abs(effect) / _deviation(variance)
    _check(control_units, treatment_units)
    return float(NormalIndPower().power(size, control_units, alpha, ratio=treatment_units / control_units))


def detectable_effect(
    variance: float, control_units: float, treatment_units: float, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest effect, in the metric's unit, that is found with this power."""
    _check(control_units, treatment_units)
    ratio = treatment_units / control_units
    size = NormalIndPower().solve_power(None, nobs1=control_units, alpha=alpha, power=power, ratio=ratio)
    return float(size) * _deviation(variance)


def needed_units(effect: float, variance: float, power: float = 0.8, alpha: float = 0.05, ratio: float = 1.0) -> int:
    """Units of control, and ``ratio`` times as many of the other arm, that find ``effect`` with this power."""
    if effect == 0:
        raise ValueError("no number of units finds an effect of 0")
    size = abs(effect) / _deviation(variance)
    return int(np.ceil(NormalIndPower().solve_power(size, None, alpha=alpha, power=power, ratio=ratio)))


def _deviation(variance: float) -> float:
    if not (variance > 0 and np.isfinite(variance)):
        raise ValueError("the variance must be positive and finite")
    return float(np.sqrt(variance))


def _check(control_units: float, treatment_units: float) -> None:
    if min(control_units, treatment_units) < 2:
        raise ValueError("a comparison takes two units in each arm")
