"""The table of effects, from sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.ab.effects import effects
from offline.ab.inputs import AnalysisSettings
from offline.ab.metrics import METRICS, ArmSums
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
