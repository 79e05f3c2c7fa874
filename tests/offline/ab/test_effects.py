"""The table of effects, from sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.ab.effects import effects
from offline.ab.metrics import METRICS, ArmSums
from offline.ab.settings import AnalysisSettings
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
    found = effects(sums, {10: {"off": arm(1, units=50), "on": arm(2, units=50)}, 20: sums}, SETTINGS)
    assert [(one.metric, one.arm) for one in found] == [
        (metric.name, name) for metric in METRICS for name in ("on", "best")
    ]
    by = {(one.metric, one.arm): one for one in found}
    best = by["ctr", "best"]
    assert best.difference.lift_low < 0.5 < best.difference.lift_high
    assert best.p_holm == pytest.approx(2 * best.difference.p)
    assert best.always_valid.low < best.difference.low < best.difference.high < best.always_valid.high
    assert best.detectable == pytest.approx(2.8 * np.sqrt(best.difference.variance), rel=0.01)
    assert [look.time_ms for look in best.looks] == [20]
    on = by["ctr", "on"]
    assert [look.time_ms for look in on.looks] == [10, 20]
    assert on.looks[-1].always_valid == on.always_valid
    assert on.looks[-1].p_running == min(look.always_valid.p for look in on.looks)


def test_a_pre_period_that_is_empty_changes_nothing() -> None:
    found = effects({"off": arm(1), "on": arm(2)}, {}, SETTINGS)
    for one in found:
        if one.metric.startswith("latency") or one.metric == "degraded_share":
            assert one.cuped is None
            assert np.isnan(one.reduction)
        else:
            assert one.cuped is not None
            assert (one.cuped.low, one.cuped.p) == pytest.approx((one.difference.low, one.difference.p))
            assert one.reduction == pytest.approx(0, abs=1e-9)


def test_a_metric_that_cannot_be_measured_is_left_out() -> None:
    none = replace(arm(2), latency=np.zeros(0), owner=np.zeros(0, np.int64))
    found = effects({"off": arm(1), "on": none}, {}, SETTINGS)
    assert {one.metric for one in found} == {metric.name for metric in METRICS} - {"latency_mean", "latency_p95"}
    still = next(one for one in found if one.metric == "degraded_share")
    assert (still.difference.p, still.always_valid.p) == (1.0, 1.0)
    assert np.isnan(still.detectable)


@pytest.mark.parametrize("sums", [{}, {"off": arm(1)}, {"on": arm(1)}, {"off": arm(1), "on": arm(2, units=1)}])
def test_nothing_to_compare(sums: dict[str, ArmSums]) -> None:
    assert effects(sums, {}, SETTINGS) == ()
