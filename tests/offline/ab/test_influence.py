"""Linearised values: their mean is the metric, and their variance that of metrics over samples of whole units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.ab.metrics import of_quantile, of_ratio
from tests.offline.ab.examples import EXAMPLES
from tests.offline.ab.simulate import totals

COUNTS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=30)


@EXAMPLES
@given(COUNTS)
def test_the_mean_of_a_ratio_is_the_ratio_of_sums(counts: list[tuple[int, int]]) -> None:
    clicks, shown = np.array(counts, np.float64).T
    assert of_ratio(clicks, shown).mean() == pytest.approx(clicks.sum() / shown.sum())


def test_a_ratio_of_equal_denominators_is_a_mean() -> None:
    values = np.array([0.0, 1.0, 4.0])
    np.testing.assert_allclose(of_ratio(values, np.full(3, 2.0)), values / 2)


def test_the_variance_of_a_ratio_is_that_over_samples_of_units() -> None:
    random = np.random.default_rng(1)
    ratios, predicted = [], []
    for _ in range(1000):
        clicks, shown = totals(random, 300)
        ratios.append(clicks.sum() / shown.sum())
        predicted.append(of_ratio(clicks, shown).var(ddof=1) / 300)
    assert np.mean(predicted) == pytest.approx(np.var(ratios, ddof=1), rel=0.12)


def test_the_variance_of_a_quantile_is_that_over_samples_of_units() -> None:
    random = np.random.default_rng(2)
    quantiles, predicted = [], []
    for _ in range(600):
        count = 1 + random.poisson(random.lognormal(1.0, 0.7, 300))
        owner = np.repeat(np.arange(300), count)
        latency = random.lognormal(1.0, 0.5, len(owner)) * np.repeat(random.lognormal(0.0, 0.3, 300), count)
        quantiles.append(np.quantile(latency, 0.95))
        values = of_quantile(latency, owner, 300, 0.95)
        assert values.mean() == pytest.approx(quantiles[-1])
        predicted.append(values.var(ddof=1) / 300)
    assert np.mean(predicted) == pytest.approx(np.var(quantiles, ddof=1), rel=0.15)


def test_a_quantile_of_equal_values_does_not_vary() -> None:
    values = of_quantile(np.full(4, 7.0), np.array([0, 0, 1, 2]), 3, 0.95)
    np.testing.assert_array_equal(values, 7.0)
    np.testing.assert_array_equal(of_quantile(np.array([1.0, 2.0]), np.array([0, 0]), 1, 0.5), 1.5)


def test_nothing_to_measure() -> None:
    for numerator, denominator in (([], []), ([0.0], [0.0])):
        with pytest.raises(ValueError, match="denominators"):
            of_ratio(np.array(numerator), np.array(denominator))
    with pytest.raises(ValueError, match="no values"):
        of_quantile(np.array([]), np.array([], np.int64), 3, 0.95)
