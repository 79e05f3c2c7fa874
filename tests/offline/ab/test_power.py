"""The predicted power is the share of experiments that find the effect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]  # has no types
from statsmodels.stats.power import NormalIndPower

from offline.ab.difference import compare
from offline.ab.effects import detectable_effect, power
from tests.offline.ab.simulate import totals
from tests.offline.ab.thousand import METRICS, values

LIFT, EXPERIMENTS = 0.03, 300


def test_a_planted_lift_is_found_with_the_predicted_power() -> None:
    random = np.random.default_rng(9)
    clicks, shown = totals(random, 200_000)
    pilot = {metric: values(metric, clicks, shown) for metric in METRICS}
    effect = {metric: LIFT * float(pilot[metric].mean()) for metric in METRICS}
    variance = {metric: float(pilot[metric].var(ddof=1)) for metric in METRICS}
    errors = 1.95996 + 0.84162  # quantiles of 0.975 and 0.8: an effect of so many standard errors has a power of 0.8
    units = int(np.ceil((errors / effect["ctr"]) ** 2 * variance["ctr"] * 2))
    detections = dict.fromkeys(METRICS, 0)
    for _ in range(EXPERIMENTS):
        control, treatment = totals(random, units), totals(random, units, LIFT)
        for metric in METRICS:
            detections[metric] += compare(values(metric, *treatment), values(metric, *control)).p < 0.05
    predicted = {metric: power(effect[metric], variance[metric], units, units) for metric in METRICS}
    assert predicted["ctr"] == pytest.approx(0.8, abs=0.001)
    assert 0.2 < predicted["clicks_per_user"] < 0.6
    for metric in METRICS:
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
