"""Sizes of effects that an experiment can see: power and detectable effect of a comparison of two arms.

``variance`` is that of one unit's value (offline/ab/influence.py): of a ratio metric, the delta method's. The
test is the normal one, which is Welch's from some tens of units on. Its power depends on nothing but the effect in
standard errors of the difference, so that effect is what is solved for.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq  # type: ignore[import-untyped]  # has no types
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]  # has no types


def power(effect: float, variance: float, control_units: float, treatment_units: float, alpha: float = 0.05) -> float:
    """Probability of p < alpha, two-sided, if the arms differ by ``effect`` in the metric's unit."""
    return _power(abs(effect) / _standard_error(variance, control_units, treatment_units), alpha)


def detectable_effect(
    variance: float, control_units: float, treatment_units: float, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest effect, in the metric's unit, that is found with this power."""
    return _standard_errors(power, alpha) * _standard_error(variance, control_units, treatment_units)


def _power(standard_errors: float, alpha: float) -> float:
    """Probability that the estimate of an effect of so many standard errors lies beyond either bound."""
    bound = ndtri(1 - alpha / 2)
    return float(ndtr(standard_errors - bound) + ndtr(-standard_errors - bound))


def _standard_errors(power: float, alpha: float) -> float:
    """The effect that is found with this power. ValueError unless the power is between alpha and 1."""
    if not alpha < power < 1:
        raise ValueError("a power lies between alpha and 1")
    one_sided = ndtri(1 - alpha / 2) + ndtri(power)  # has the power within one bound alone, so it is never too little
    return float(brentq(lambda errors: _power(errors, alpha) - power, 0.0, one_sided + 1.0, xtol=1e-12))


def _standard_error(variance: float, control_units: float, treatment_units: float) -> float:
    """Standard error of the difference of two means."""
    if not (variance > 0 and np.isfinite(variance)):
        raise ValueError("the variance must be positive and finite")
    if min(control_units, treatment_units) < 2:
        raise ValueError("a comparison takes two units in each arm")
    return float(np.sqrt(variance * (1 / control_units + 1 / treatment_units)))
