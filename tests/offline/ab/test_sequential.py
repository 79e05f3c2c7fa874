"""Peeking every day is safe, and an interval that is looked at once is not much wider for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm  # type: ignore[import-untyped]  # has no types

from offline.ab.difference import AlwaysValid, Mixture, always_valid, compare, half_width, p_value, running
from tests.offline.ab.examples import EXAMPLES
from tests.offline.ab.thousand import METRICS, Thousand


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
    assert running(analyses) == (AlwaysValid(0.5, -1, 1), AlwaysValid(0.01, 0.1, 0.9), AlwaysValid(0.01, 0.1, 0.6))
    assert running(()) == ()


@pytest.mark.parametrize(("units", "alpha"), [(0, 0.05), (100, 0), (100, 1), (float("nan"), 0.05)])
def test_a_tuning_that_is_none(units: float, alpha: float) -> None:
    with pytest.raises(ValueError, match="planned units"):
        Mixture(units, alpha)
