"""The change that an arm makes: differences of means of per-unit values, with Welch's interval, and CUPED in front of
it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array

NAN = float("nan")

_ROUNDING = 1e-12  # what equal values may differ by, relative to themselves, after they were summed


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm minus control, in the metric's unit. ``lift`` is the difference as a share of control's value. Bounds are
    those of 1 - alpha intervals; ``p`` is two-sided. ``variance`` is that of the estimate ``absolute``.

    Without variance in either arm the interval is a point, and p is 1 if the arms are equal, else unknown (NaN); lifts
    are NaN where control is 0.
    """

    control: float
    treatment: float
    absolute: float
    low: float
    high: float
    lift: float
    lift_low: float
    lift_high: float
    p: float
    variance: float
    control_units: int
    treatment_units: int


def compare(treatment: Array, control: Array, alpha: float = 0.05) -> Difference:
    """Difference of the means of two samples of values [units] (offline/ab/metrics.py) of independent units,
    by Welch's t-test. ValueError with fewer than two units in an arm, or values that are not finite."""
    for values in (treatment, control):
        if len(values) < 2:
            raise ValueError("a comparison takes two units in each arm")
        if not np.isfinite(values).all():
            raise ValueError("values must be finite")
    reached, base = float(treatment.mean()), float(control.mean())
    absolute, variance = reached - base, _variance(treatment) + _variance(control)
    rounding = _ROUNDING * max(abs(reached), abs(base))
    reach, p = 0.0, (1.0 if abs(absolute) <= rounding else NAN)
    if variance > rounding**2:
        freedom = _freedom(treatment, control)
        reach = _reach(variance, freedom, alpha)
        p = float(2 * stdtr(freedom, -abs(absolute) / np.sqrt(variance)))
    lift, lift_reach = _lift(treatment, control, alpha)
    return Difference(
        control=base,
        treatment=reached,
        absolute=absolute,
        low=absolute - reach,
        high=absolute + reach,
        lift=lift,
        lift_low=lift - lift_reach,
        lift_high=lift + lift_reach,
        p=p,
        variance=variance,
        control_units=len(control),
        treatment_units=len(treatment),
    )


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values of one family; NaN are not in the family and stay. The least of n is multiplied by n,
    the next by n - 1 and so on, and none is adjusted to less than one that was smaller."""
    values = np.array(p, np.float64)
    family = np.flatnonzero(np.isfinite(values))
    ascending = family[np.argsort(values[family], kind="stable")]
    multiplied = values[ascending] * np.arange(len(family), 0, -1)
    values[ascending] = np.minimum(1.0, np.maximum.accumulate(multiplied))
    return tuple(values.tolist())


@dataclass(frozen=True, slots=True)
class Cuped:
    """Values [units] of both arms without what the covariates foresaw. ``reduction`` is the share of the variance of
    the difference that this took away."""

    treatment: Array
    control: Array
    reduction: float


def cuped(treatment: Array, control: Array, treatment_past: Array, control_past: Array) -> Cuped:
    """CUPED (Deng, Xu, Kohavi and Walker, WSDM 2013, section 3): values [units] less theta times the covariates
    [units, k], which must be older than the experiment. Theta is the regression within arms, the same for both.

    Each value's distance from its mean is that which a theta fitted without it would leave (HC3, MacKinnon and White
    1985): a few units with a very long past decide theta, and would make their own variance look too small. Covariates
    that do not vary do nothing.
    """
    past = np.concatenate([_centred(treatment_past), _centred(control_past)])
    values = np.concatenate([_centred(treatment), _centred(control)])
    inverse = np.linalg.pinv(past)
    theta, leverage = inverse @ values, np.einsum("uk,ku->u", past, inverse)
    # What is left of each unit's own say, beside that which it has in the mean of its arm and which _variance counts.
    own = 1 - leverage / (1 - 1 / np.repeat([len(treatment), len(control)], [len(treatment), len(control)]))
    # A unit that is the only one with a covariate says nothing of the others: its value stays.
    left = np.divide(values - past @ theta, own, out=values.copy(), where=own > 1e-9)
    moved = (treatment_past.mean(axis=0) - control_past.mean(axis=0)) @ theta
    share = len(control) / len(values)  # so that both arms together keep their mean
    adjusted_treatment = treatment.mean() - share * moved + _centred(left[: len(treatment)])
    adjusted_control = control.mean() + (1 - share) * moved + _centred(left[len(treatment) :])
    before = _variance(treatment) + _variance(control)
    after = _variance(adjusted_treatment) + _variance(adjusted_control)
    reduction = float(1 - after / before) if before > 0 else 0.0
    return Cuped(adjusted_treatment, adjusted_control, reduction)


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean(axis=0))


def _lift(treatment: Array, control: Array, alpha: float) -> tuple[float, float]:
    """Relative difference, and how far its interval reaches to both sides."""
    base, reached = float(control.mean()), float(treatment.mean())
    if base == 0:
        return NAN, NAN
    # The delta method (section 3.1 of arXiv 1803.06336): near the estimate the quotient moves as this difference does.
    linear_treatment, linear_control = treatment / base, control * (reached / base**2)
    variance = _variance(linear_treatment) + _variance(linear_control)
    if variance == 0:
        return reached / base - 1, 0.0
    return reached / base - 1, _reach(variance, _freedom(linear_treatment, linear_control), alpha)


def _freedom(treatment: Array, control: Array) -> float:
    """Degrees of freedom of the difference of two means, of which one must vary (Welch and Satterthwaite)."""
    share = _variance(treatment) / (_variance(treatment) + _variance(control))
    return float(1 / (share**2 / (len(treatment) - 1) + (1 - share) ** 2 / (len(control) - 1)))


def _reach(variance: float, freedom: float, alpha: float) -> float:
    """Half the width of the 1 - alpha interval of an estimate with this variance."""
    return float(stdtrit(freedom, 1 - alpha / 2) * np.sqrt(variance))


def _variance(values: Array) -> float:
    """Variance of the mean of ``values`` [units]."""
    return float(np.var(values, ddof=1) / len(values))
