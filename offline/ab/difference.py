"""The change that an arm makes: differences of means of per-unit values, with Welch's interval, CUPED in front of it,
and tests and intervals that stay valid however often, and whenever, somebody looks.

The latter are the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (arXiv 2103.06476,
theorem 2.2), a Gaussian mixture as in the mSPRT of Johari, Koomen, Pekelis and Walsh (KDD 2017), written for an
estimate with a variance. With z = estimate / sqrt(variance) and k = rho^2 t for t units,

    p = sqrt(1 + k) exp(-z^2 k / (2 (1 + k))),    half width = sqrt(variance (1 + k) / k log((1 + k) / alpha^2)).

The sequence is a martingale in the number of units, so it counts on new units coming in. Where known units only go on
clicking it does not hold by theorem, but no interval is ever narrower than the narrowest one, 3.035 standard errors for
alpha = 0.05, which is Bonferroni's for 20 looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import lambertw, stdtr, stdtrit  # type: ignore[import-untyped]  # has no types

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
    # The rest of each unit's own say, beside that which it has in the mean of its arm and which _variance counts.
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
    """The state of a difference at one look; equal arms without variance have p 1, unequal ones an unknown p (NaN)."""
    k = mixture.k(difference.control_units, difference.treatment_units)
    reach = float(half_width(difference.variance, k, mixture.alpha))
    varies = difference.low < difference.high
    p = float(p_value(difference.absolute, difference.variance, k)) if varies else difference.p
    return AlwaysValid(p, difference.absolute - reach, difference.absolute + reach)


def accumulate(analyses: tuple[AlwaysValid, ...]) -> tuple[AlwaysValid, ...]:
    """Knowledge after each of successive analyses: the least p and the intersection of the intervals so far. An empty
    intersection, low above high, says that the effect has changed in the meantime."""
    if not analyses:
        return ()
    p, low, high = np.array([(bounds.p, bounds.low, bounds.high) for bounds in analyses]).T
    columns = np.minimum.accumulate(p), np.maximum.accumulate(low), np.minimum.accumulate(high)
    return tuple(AlwaysValid(*map(float, row)) for row in zip(*columns, strict=True))


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
