"""Tests and intervals that stay valid however often, and whenever, somebody looks.

The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (arXiv 2103.06476, theorem 2.2), a
Gaussian mixture as in the mSPRT of Johari, Koomen, Pekelis and Walsh (KDD 2017), written for an estimate with a
variance. With z = estimate / sqrt(variance) and k = rho^2 t for t units,

    p = sqrt(1 + k) exp(-z^2 k / (2 (1 + k))),    half width = sqrt(variance (1 + k) / k log((1 + k) / alpha^2)).

The sequence is a martingale in the number of units, so it counts on new units coming in. Where known units only go on
clicking it does not hold by theorem, but no interval is ever narrower than the narrowest one, 3.035 standard errors for
alpha = 0.05, which is Bonferroni's for 20 looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import lambertw  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array
from offline.ab.difference import Difference


@dataclass(frozen=True, slots=True)
class Mixture:
    """The tuning: at ``planned_units``, split evenly over two arms, the 1 - ``alpha`` interval is the narrowest that it
    can be there. A third or three times as many cost a few percent of width. Any value is valid, provided that it was
    chosen before the data were seen."""

    planned_units: float
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not (self.planned_units > 0 and 0 < self.alpha < 1):
            raise ValueError("planned units must be positive, and alpha between 0 and 1")

    def k(self, control_units: Array | float, treatment_units: Array | float) -> Array:
        """rho^2 t, where t is the effective number of units: half the harmonic mean of the two arms'."""
        # Where (1 + k) / k log((1 + k) / alpha^2) is least: the root of its derivative, by Lambert's function.
        best = -lambertw(-(self.alpha**2) / np.e, -1).real - 1
        effective = 1 / (1 / np.asarray(control_units) + 1 / np.asarray(treatment_units))
        return np.asarray(best * effective / (self.planned_units / 4))


@dataclass(frozen=True, slots=True)
class AlwaysValid:
    """p-value of no difference, and 1 - alpha bounds of the difference, that hold at all looks at once."""

    p: float
    low: float
    high: float


def p_value(estimate: Array | float, variance: Array | float, k: Array | float) -> Array:
    """Always-valid p of estimates [...] with variances [...] and ``Mixture.k`` [...]; NaN without variance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.where(np.asarray(variance) > 0, np.square(estimate) / variance, np.nan)
    return np.asarray(np.minimum(1.0, np.sqrt(1 + k) * np.exp(-squared * k / (2 * (1 + np.asarray(k))))))


def half_width(variance: Array | float, k: Array | float, alpha: float) -> Array:
    """Half the width [...] of the confidence sequence."""
    k = np.asarray(k)
    return np.asarray(np.sqrt(variance * (1 + k) / k * np.log((1 + k) / alpha**2)))


def always_valid(difference: Difference, mixture: Mixture) -> AlwaysValid:
    """Of one look at a difference; equal arms without variance have p 1, unequal ones an unknown p (NaN)."""
    k = mixture.k(difference.control_units, difference.treatment_units)
    reach = float(half_width(difference.variance, k, mixture.alpha))
    varies = difference.low < difference.high
    p = float(p_value(difference.absolute, difference.variance, k)) if varies else difference.p
    return AlwaysValid(p, difference.absolute - reach, difference.absolute + reach)


def running(analyses: tuple[AlwaysValid, ...]) -> tuple[AlwaysValid, ...]:
    """Knowledge after each of successive analyses: the least p and the intersection of the intervals so far. An empty
    intersection, low above high, says that the effect has changed in the meantime."""
    if not analyses:
        return ()
    p, low, high = np.array([(bounds.p, bounds.low, bounds.high) for bounds in analyses]).T
    columns = np.minimum.accumulate(p), np.maximum.accumulate(low), np.minimum.accumulate(high)
    return tuple(AlwaysValid(*map(float, row)) for row in zip(*columns, strict=True))
