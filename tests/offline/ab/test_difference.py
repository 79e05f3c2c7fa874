"""Differences between arms: right in A/A, where a test by rows is wrong; sharper with a pre-period, and as honest.
Peeking every day is safe, and an interval that is looked at once is not much wider for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm, ttest_ind  # type: ignore[import-untyped]  # has no types
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from offline.ab.difference import (
    AlwaysValid,
    Mixture,
    accumulate,
    always_valid,
    compare,
    cuped,
    half_width,
    holm,
    p_value,
)
from tests.offline.ab.examples import EXAMPLES
from tests.offline.ab.simulate import totals
from tests.offline.ab.thousand import METRICS, Thousand, values

Floats = npt.NDArray[np.float64]

LISTS = hnp.arrays(np.float64, st.integers(2, 20), elements=st.integers(0, 50).map(float))


@pytest.mark.parametrize("metric", METRICS)
def test_equal_arms_differ_in_five_percent_of_experiments(aa: Thousand, metric: str) -> None:
    assert np.mean(aa.p[metric] < 0.05) == pytest.approx(0.05, abs=0.015)


def test_shown_items_are_not_independent(aa: Thousand) -> None:
    assert np.mean(aa.naive_p < 0.05) > 0.3
    assert np.mean(aa.p["ctr"] < 0.05) < 0.065


@pytest.mark.parametrize("metric", METRICS)
def test_the_pre_period_takes_variance_away_and_keeps_the_rate(aa: Thousand, metric: str) -> None:
    assert np.mean(aa.cuped_p[metric] < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(aa.reduction[metric]) > 0.5


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_cover_a_planted_lift(metric: str) -> None:
    random = np.random.default_rng(5)
    truth = [values(metric, *totals(random, 400_000, lift)).mean() for lift in (0.0, 0.2)]
    absolute = relative = 0
    for _ in range(400):
        control, treatment = (values(metric, *totals(random, 500, lift)) for lift in (0.0, 0.2))
        difference = compare(treatment, control)
        absolute += difference.low <= truth[1] - truth[0] <= difference.high
        relative += difference.lift_low <= truth[1] / truth[0] - 1 <= difference.lift_high
    assert 0.925 < absolute / 400 < 0.975
    assert 0.925 < relative / 400 < 0.975


def test_it_is_welchs_test() -> None:
    treatment, control = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.0, 1.0, 1.0])
    difference, expected = compare(treatment, control, alpha=0.1), ttest_ind(treatment, control, equal_var=False)
    bounds = expected.confidence_interval(0.9)
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx((bounds.low, bounds.high))
    assert difference.lift == pytest.approx(difference.absolute / difference.control)
    assert (difference.control_units, difference.treatment_units) == (3, 4)


@EXAMPLES
@given(LISTS, LISTS, st.floats(0.001, 0.5))
def test_intervals_are_statsmodels(treatment: Floats, control: Floats, alpha: float) -> None:
    assume(np.ptp(treatment) + np.ptp(control) > 0 and treatment.sum() > 0 and control.sum() > 0)
    difference = compare(treatment, control, alpha)
    means = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    bounds = means.tconfint_diff(alpha, usevar="unequal")
    assert (difference.low, difference.high) == pytest.approx(bounds, rel=1e-9, abs=1e-12)
    assert difference.p == pytest.approx(means.ttest_ind(usevar="unequal")[1])
    base, reached = control.mean(), treatment.mean()
    quotient = CompareMeans(DescrStatsW(treatment / base), DescrStatsW(control * reached / base**2))
    low, high = quotient.tconfint_diff(alpha, usevar="unequal")
    if high > low:  # NaN where neither quotient varies
        bounds = reached / base - 1 - (high - low) / 2, reached / base - 1 + (high - low) / 2
        assert (difference.lift_low, difference.lift_high) == pytest.approx(bounds, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_holms_adjustment_is_statsmodels(size: int) -> None:
    p = np.random.default_rng(size).beta(0.3, 2, size)
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


@EXAMPLES
@given(LISTS, LISTS)
def test_swapping_the_arms_flips_the_sign(treatment: Floats, control: Floats) -> None:
    there, back = compare(treatment, control), compare(control, treatment)
    assert (there.absolute, there.low, there.high) == pytest.approx((-back.absolute, -back.high, -back.low))
    assert there.p == pytest.approx(back.p, nan_ok=True)


@EXAMPLES
@given(LISTS, LISTS, st.randoms(use_true_random=False))
def test_the_order_of_units_does_not_matter(treatment: Floats, control: Floats, random: object) -> None:
    there, back = compare(treatment, control), compare(treatment[::-1], np.sort(control))
    assert (there.absolute, there.low, there.high) == pytest.approx((back.absolute, back.low, back.high))


def test_arms_that_do_not_vary() -> None:
    same, other = compare(np.ones(3), np.ones(2)), compare(np.ones(3), np.zeros(2))
    assert (same.p, same.low, same.high, same.lift) == (1.0, 0.0, 0.0, 0.0)
    assert (other.low, other.high) == (1.0, 1.0)
    assert np.isnan([other.p, other.lift, other.lift_low]).all()
    assert compare(np.full(3, 0.1) * 3, np.full(3, 0.3)).p == 1.0


@pytest.mark.parametrize(("units", "problem"), [([1.0], "two units"), ([1.0, np.nan], "finite")])
def test_what_cannot_be_compared(units: list[float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        compare(np.array(units), np.array([1.0, 2.0]))


def test_holm_adjusts_what_is_known() -> None:
    assert holm([0.01, float("nan"), 0.04]) == pytest.approx((0.02, float("nan"), 0.04), nan_ok=True)
    assert holm([0.04, 0.03, 0.01]) == pytest.approx((0.06, 0.06, 0.03))
    assert holm([]) == ()


def test_cuped_by_hand() -> None:
    random = np.random.default_rng(8)
    past = random.normal(size=(400, 1))
    metric = 3 * past[:, 0] + random.normal(size=400)
    reduced = cuped(metric[:250], metric[250:], past[:250], past[250:])
    centred = [part - part.mean(axis=0) for part in (past[:250], past[250:], metric[:250], metric[250:])]
    theta = np.linalg.lstsq(np.concatenate(centred[:2]), np.concatenate(centred[2:]))[0]
    adjusted = metric - (past - past.mean(axis=0)) @ theta
    assert reduced.treatment.mean() == pytest.approx(adjusted[:250].mean())
    assert reduced.control.mean() == pytest.approx(adjusted[250:].mean())
    assert reduced.treatment.var() == pytest.approx(adjusted[:250].var(), rel=0.05)
    assert reduced.reduction == pytest.approx(0.9, abs=0.03)


def test_a_past_that_says_nothing_changes_nothing() -> None:
    treatment, control = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0])
    for width in (1, 2):
        reduced = cuped(treatment, control, np.full((3, width), 7.0), np.full((2, width), 7.0))
        np.testing.assert_allclose(reduced.treatment, treatment)
        np.testing.assert_allclose(reduced.control, control)
        assert reduced.reduction == pytest.approx(0, abs=1e-12)
    assert cuped(np.ones(3), np.ones(2), np.ones((3, 1)), np.ones((2, 1))).reduction == 0


def test_one_unit_with_a_past_does_not_look_foreseen() -> None:
    treatment, control = np.array([90.0, 2.0, 4.0, 5.0]), np.array([0.0, 1.0, 3.0])
    past = np.array([[100.0], [0.0], [0.0], [0.0]])
    reduced = cuped(treatment, control, past, np.zeros((3, 1)))
    assert reduced.reduction < 0.5  # with a theta that has seen it, 0.998


@pytest.mark.parametrize("planned", [60, 600, 6000])
@pytest.mark.parametrize("metric", METRICS)
def test_equal_arms_stay_equal_at_every_of_fourteen_looks(aa: Thousand, metric: str, planned: int) -> None:
    k = Mixture(planned).k(aa.units[..., 0], aa.units[..., 1])
    p = p_value(aa.estimate[metric], aa.variance[metric], k)
    assert p.shape == (1000, 14)
    assert np.mean(p.min(axis=1) < 0.05) < 0.05
    reach = half_width(aa.variance[metric], k, 0.05)
    assert np.mean((np.abs(aa.estimate[metric]) > reach).any(axis=1)) < 0.05


@pytest.mark.parametrize("metric", METRICS)
def test_peeking_at_the_fixed_horizon_test_is_not_safe(aa: Thousand, metric: str) -> None:
    p = 2 * norm.sf(np.abs(aa.estimate[metric]) / np.sqrt(aa.variance[metric]))
    assert np.mean(p.min(axis=1) < 0.05) > 0.12


@pytest.mark.parametrize("planned", [100, 10_000])
def test_a_thousand_looks_at_units_that_come_in(planned: int) -> None:
    random = np.random.default_rng(3)
    units = np.arange(20, 2020, 2)
    difference = np.cumsum(random.normal(size=(2000, 2020)), axis=1)[:, units - 1] / units * 2
    p = p_value(difference, 4 / units, Mixture(planned).k(units / 2, units / 2))
    assert np.mean(p.min(axis=1) < 0.05) < 0.05


def test_a_large_effect_is_found_early() -> None:
    random = np.random.default_rng(4)
    units = np.arange(20, 2020, 20)
    difference = 0.3 + np.cumsum(random.normal(size=(200, 2020)), axis=1)[:, units - 1] / units * 2
    p = p_value(difference, 4 / units, Mixture(1000).k(units / 2, units / 2))
    assert np.mean(p.min(axis=1) < 0.05) > 0.95
    assert np.median(np.argmax(p < 0.05, axis=1)) < 50


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("planned", [40, 4000])
def test_the_planned_units_have_the_narrowest_interval(planned: int, alpha: float) -> None:
    widths = [
        float(half_width(1.0, Mixture(tuned, alpha).k(planned / 2, planned / 2), alpha))
        for tuned in (planned, planned * 0.98, planned * 1.02, planned / 3, planned * 3)
    ]
    assert widths[0] == min(widths)
    assert max(widths) < 1.1 * widths[0]


def test_no_interval_is_narrower_than_bonferronis_of_twenty_looks() -> None:
    narrowest = float(half_width(1.0, Mixture(100).k(50, 50), 0.05))
    assert narrowest == pytest.approx(3.035, abs=0.001)
    assert 20 * 2 * norm.sf(narrowest) < 0.05


@EXAMPLES
@given(st.floats(-5, 5), st.floats(0.01, 10), st.floats(0.01, 1000))
def test_p_is_below_alpha_exactly_when_the_interval_excludes_zero(estimate: float, variance: float, k: float) -> None:
    reach = float(half_width(variance, k, 0.05))
    if abs(abs(estimate) - reach) > 1e-9:
        assert (float(p_value(estimate, variance, k)) < 0.05) == (abs(estimate) > reach)


def test_one_look() -> None:
    random = np.random.default_rng(6)
    difference = compare(random.normal(1, 1, 300), random.normal(0, 1, 200))
    valid = always_valid(difference, Mixture(500))
    assert valid.low < difference.low < difference.high < valid.high
    assert difference.p < valid.p < 1e-6
    still = always_valid(compare(np.ones(3), np.ones(2)), Mixture(500))
    assert still == AlwaysValid(1.0, 0.0, 0.0)
    assert np.isnan(always_valid(compare(np.ones(3), np.zeros(2)), Mixture(500)).p)


def test_what_was_known_stays_known() -> None:
    analyses = (AlwaysValid(0.5, -1, 1), AlwaysValid(0.01, 0.1, 0.9), AlwaysValid(0.2, -0.1, 0.6))
    assert accumulate(analyses) == (
        AlwaysValid(0.5, -1, 1),
        AlwaysValid(0.01, 0.1, 0.9),
        AlwaysValid(0.01, 0.1, 0.6),
    )
    assert accumulate(()) == ()


@pytest.mark.parametrize(("units", "alpha"), [(0, 0.05), (100, 0), (100, 1), (float("nan"), 0.05)])
def test_a_tuning_that_is_none(units: float, alpha: float) -> None:
    with pytest.raises(ValueError, match="planned units"):
        Mixture(units, alpha)
