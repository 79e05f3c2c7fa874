"""The table of effects, from sums; the predicted power is the share of experiments that find the effect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]  # has no types
from statsmodels.stats.power import NormalIndPower

from offline.ab.difference import compare
from offline.ab.effects import detectable_effect, effects, power
from offline.ab.inputs import AnalysisSettings
from offline.ab.metrics import METRICS, ArmSums
from tests.offline.ab import thousand
from tests.offline.ab.simulate import totals

SETTINGS = AnalysisSettings(control="off", weights={"on": 1, "off": 1, "empty": 1, "best": 1})


def arm(seed: int, lift: float = 0.0, units: int = 500) -> ArmSums:
    random = np.random.default_rng(seed)
    clicks, shown = totals(random, units, lift)
    requests = shown / 10
    owner = np.repeat(np.arange(units), requests.astype(int))
    latency = random.lognormal(size=len(owner))
    return ArmSums(requests, shown, clicks, clicks / shown, np.zeros(units), np.zeros((units, 2)), latency, owner)


def test_every_metric_of_every_arm_that_has_units() -> None:
    sums = {"off": arm(1), "on": arm(2), "best": arm(3, 0.5)}
    compared = effects(sums, {10: {"off": arm(1, units=50), "on": arm(2, units=50)}, 20: sums}, SETTINGS)
    assert [(effect.metric, effect.arm) for effect in compared] == [
        (metric.name, name) for metric in METRICS for name in ("on", "best")
    ]
    by = {(effect.metric, effect.arm): effect for effect in compared}
    best = by["ctr", "best"]
    assert best.difference.lift_low < 0.5 < best.difference.lift_high
    assert best.p_holm == pytest.approx(2 * best.difference.p)
    assert best.always_valid.low < best.difference.low < best.difference.high < best.always_valid.high
    assert best.detectable == pytest.approx(2.8 * np.sqrt(best.difference.variance), rel=0.01)
    assert [look.time_ms for look in best.interim] == [20]
    on = by["ctr", "on"]
    assert [look.time_ms for look in on.interim] == [10, 20]
    assert on.interim[-1].always_valid == on.always_valid
    assert on.interim[-1].p_running == min(look.always_valid.p for look in on.interim)


def test_a_pre_period_that_is_empty_changes_nothing() -> None:
    compared = effects({"off": arm(1), "on": arm(2)}, {}, SETTINGS)
    for effect in compared:
        if effect.metric.startswith("latency") or effect.metric == "degraded_share":
            assert effect.cuped is None
            assert np.isnan(effect.reduction)
        else:
            assert effect.cuped is not None
            assert (effect.cuped.low, effect.cuped.p) == pytest.approx((effect.difference.low, effect.difference.p))
            assert effect.reduction == pytest.approx(0, abs=1e-9)


def test_a_metric_that_cannot_be_measured_is_left_out() -> None:
    none = replace(arm(2), latency=np.zeros(0), owner=np.zeros(0, np.int64))
    compared = effects({"off": arm(1), "on": none}, {}, SETTINGS)
    assert {effect.metric for effect in compared} == {metric.name for metric in METRICS} - {
        "latency_mean",
        "latency_p95",
    }
    still = next(effect for effect in compared if effect.metric == "degraded_share")
    assert (still.difference.p, still.always_valid.p) == (1.0, 1.0)
    assert np.isnan(still.detectable)


@pytest.mark.parametrize("sums", [{}, {"off": arm(1)}, {"on": arm(1)}, {"off": arm(1), "on": arm(2, units=1)}])
def test_nothing_to_compare(sums: dict[str, ArmSums]) -> None:
    assert effects(sums, {}, SETTINGS) == ()


LIFT, EXPERIMENTS = 0.03, 300


def test_a_planted_lift_is_found_with_the_predicted_power() -> None:
    random = np.random.default_rng(9)
    clicks, shown = totals(random, 200_000)
    pilot = {metric: thousand.values(metric, clicks, shown) for metric in thousand.METRICS}
    effect = {metric: LIFT * float(pilot[metric].mean()) for metric in thousand.METRICS}
    variance = {metric: float(pilot[metric].var(ddof=1)) for metric in thousand.METRICS}
    errors = 1.95996 + 0.84162  # quantiles of 0.975 and 0.8: an effect of so many standard errors has a power of 0.8
    units = int(np.ceil((errors / effect["ctr"]) ** 2 * variance["ctr"] * 2))
    detections = dict.fromkeys(thousand.METRICS, 0)
    for _ in range(EXPERIMENTS):
        control, treatment = totals(random, units), totals(random, units, LIFT)
        for metric in thousand.METRICS:
            detections[metric] += (
                compare(thousand.values(metric, *treatment), thousand.values(metric, *control)).p < 0.05
            )
    predicted = {metric: power(effect[metric], variance[metric], units, units) for metric in thousand.METRICS}
    assert predicted["ctr"] == pytest.approx(0.8, abs=0.001)
    assert 0.2 < predicted["clicks_per_user"] < 0.6
    for metric in thousand.METRICS:
        assert binomtest(detections[metric], EXPERIMENTS, predicted[metric]).pvalue > 0.01, (detections, predicted)


@pytest.mark.parametrize(("control", "treatment"), [(50, 50), (121, 337), (31_057, 1592), (2_000_000, 2_000_000)])
def test_the_detectable_effect_has_the_power(control: int, treatment: int) -> None:
    effect = detectable_effect(4.0, control, treatment)
    assert effect == pytest.approx(2.8 * np.sqrt(4 / control + 4 / treatment), rel=0.03)
    assert power(effect, 4.0, control, treatment) == pytest.approx(0.8, abs=1e-3)
    assert power(-effect, 4.0, control, treatment) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("chance", [0.2, 0.8, 0.99])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_effects_and_powers_are_statsmodels(alpha: float, chance: float) -> None:
    solver, ratio = NormalIndPower(), 1592 / 31_057
    size = solver.solve_power(None, nobs1=31_057, alpha=alpha, power=chance, ratio=ratio)
    assert detectable_effect(4.0, 31_057, 1592, chance, alpha) == pytest.approx(2 * size, rel=1e-4)
    assert power(0.1, 4.0, 31_057, 1592, alpha) == pytest.approx(solver.power(0.05, 31_057, alpha, ratio))


@pytest.mark.parametrize("impossible", [0.0, 0.05, 1.0])
def test_a_power_that_no_effect_has(impossible: float) -> None:
    with pytest.raises(ValueError, match="between alpha and 1"):
        detectable_effect(1.0, 10, 10, impossible)


def test_no_effect_is_found_by_accident_only() -> None:
    assert power(0.0, 1.0, 100, 100) == pytest.approx(0.05)


def test_what_has_no_power() -> None:
    for variance in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="variance"):
            power(1.0, variance, 10, 10)
    with pytest.raises(ValueError, match="two units"):
        detectable_effect(1.0, 1, 10)
