"""Sums per unit, by hand and from simulated tables. Linearised values: their mean is the metric, and their variance
that of metrics over samples of whole units."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.ab.attribution import attribute, first_of_requests
from offline.ab.inputs import DAY_MS, EXPOSURES, INTERACTIONS, ClickRule
from offline.ab.metrics import METRICS, ArmSums, arm_sums, of_quantile, of_ratio, request_sums, unit_history
from tests.offline.ab.examples import EXAMPLES
from tests.offline.ab.simulate import START_MS, World, tables, totals

CLICKS = pl.DataFrame(
    {"request_id": ["q1", "q1", "q3"], "item": ["a", "c", "a"], "position": [0, 2, 1], "time_ms": [5, 6, 7]}
)


def exposure(request: str, unit: str, arm: str = "control", **given: Any) -> dict[str, Any]:
    row = {"request_id": request, "unit": unit, "arm": arm, "time_ms": 1, "items": ["a", "b", "c"], "degraded": []}
    return {**row, "latency_ms": 1.0, **given}


def by_hand() -> pl.DataFrame:
    rows = [
        exposure("q1", "ann", latency_ms=2.0),
        exposure("q2", "ann", latency_ms=4.0, degraded=["rerank"]),
        exposure("q3", "bob", items=["b", "a"], latency_ms=9.0),
        exposure("q4", "cid", "treatment", latency_ms=None),
        exposure("q5", "dan", "treatment", latency_ms=float("nan"), items=[]),
    ]
    return pl.DataFrame(rows, EXPOSURES)


def sums_by_hand() -> dict[str, ArmSums]:
    nothing = unit_history(pl.DataFrame(schema=INTERACTIONS), ClickRule(), 0, None)
    return arm_sums(request_sums(by_hand(), CLICKS), nothing)


def test_sums_by_hand() -> None:
    history = pl.DataFrame({"unit": ["bob", "eve"], "past_clicks": [2, 1], "past_events": [5, 1]})
    sums = arm_sums(request_sums(by_hand(), CLICKS), history)
    control = sums["control"]
    np.testing.assert_array_equal(control.requests, [2, 1])
    np.testing.assert_array_equal(control.shown, [6, 2])
    np.testing.assert_array_equal(control.clicks, [2, 1])
    np.testing.assert_array_equal(control.degraded, [1, 0])
    np.testing.assert_array_equal(control.history, [[0, 0], [2, 5]])
    both = (1 + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(control.ndcg, [both / 2, 1 / np.log2(3)])
    np.testing.assert_array_equal(control.latency, [2, 4, 9])
    np.testing.assert_array_equal(control.owner, [0, 0, 1])
    assert not len(sums["treatment"].latency)


def test_metrics_by_hand() -> None:
    control = sums_by_hand()["control"]
    means = {metric.name: float(metric.values(control).mean()) for metric in METRICS}
    assert means["ctr"] == pytest.approx(3 / 8)
    assert means["clicks_per_user"] == pytest.approx(3 / 2)
    assert means["latency_mean"] == pytest.approx(5)
    assert means["latency_p95"] == pytest.approx(np.quantile([2, 4, 9], 0.95))
    assert means["degraded_share"] == pytest.approx(1 / 3)


def test_an_arm_without_latencies_has_no_latency() -> None:
    treatment = sums_by_hand()["treatment"]
    for metric in METRICS[3:5]:
        with pytest.raises(ValueError, match="no value"):
            metric.values(treatment)


def test_requests_without_any_click_have_none() -> None:
    sums = request_sums(by_hand(), CLICKS.clear())
    assert sums.select(pl.col("clicks", "ndcg").sum()).row(0) == (0, 0.0)


def test_the_past_is_what_was_before_the_start_once() -> None:
    times = [10, 10, 99, 100, 40]
    rows = [
        {"unit": "ann", "item": "a", "type": "view" if at == 4 else "click", "value": 1.0, "time_ms": time}
        for at, time in enumerate(times)
    ]
    rule, frame = ClickRule(types=frozenset({"click"})), pl.DataFrame(rows, INTERACTIONS)
    assert unit_history(frame, rule, 100, None).rows() == [("ann", 2, 3)]
    assert unit_history(frame, rule, 100, 60).rows() == [("ann", 1, 2)]


def test_tables_sum_up_to_what_was_simulated() -> None:
    exposures, interactions = tables(World(units=60, repeated=0.3))
    requests = first_of_requests(exposures)
    clicks = attribute(requests, interactions, ClickRule(), DAY_MS, START_MS).clicks
    sums = arm_sums(request_sums(requests, clicks), unit_history(interactions, ClickRule(), START_MS, None))
    during = interactions.filter(pl.col("time_ms") >= START_MS).unique()
    assert sum(arm.clicks.sum() for arm in sums.values()) == during.height
    assert sum(arm.requests.sum() for arm in sums.values()) == exposures["request_id"].n_unique()
    assert sum(arm.units for arm in sums.values()) == exposures["unit"].n_unique()
    assert sum(arm.history[:, 1].sum() for arm in sums.values()) == interactions.unique().height - during.height


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
