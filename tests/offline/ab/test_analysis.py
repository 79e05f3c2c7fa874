"""Whole experiments, from tables to findings: what was planted is found, and told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from offline.ab.analysis import Analysis, analyse
from offline.ab.inputs import DAY_MS, EXPOSURES, INTERACTIONS, AnalysisSettings, ClickRule
from offline.ab.metrics import METRICS
from tests.offline.ab.simulate import ARMS, START_MS, World, drawn, tables

CLICKS = ClickRule(types=frozenset({"click"}))
SETTINGS = AnalysisSettings(
    control="control",
    weights=dict.fromkeys(ARMS, 1.0),
    clicks=CLICKS,
    start_ms=START_MS,
    breakdowns=("release", "day", "context.country"),
    looks=4,
)


def numbers(document: Any) -> list[float]:
    """All numbers of a document, in its order."""
    if isinstance(document, dict | list):
        parts = document.values() if isinstance(document, dict) else document
        return [number for part in parts for number in numbers(part)]
    return [float(document)] if isinstance(document, int | float) else []


@pytest.fixture(scope="module")
def lifted() -> tuple[pl.DataFrame, pl.DataFrame, Analysis]:
    exposures, interactions = tables(World(units=1200, lift=0.3, slower=1.0, repeated=0.2, seed=1))
    return exposures, interactions, analyse(exposures, interactions, SETTINGS)


def test_planted_effects_are_found(lifted: tuple[pl.DataFrame, pl.DataFrame, Analysis]) -> None:
    effects = {effect.metric: effect for effect in lifted[2].effects}
    assert list(effects) == [metric.name for metric in METRICS]
    assert effects["ctr"].difference.lift_low < 0.3 < effects["ctr"].difference.lift_high
    assert effects["ctr"].difference.control == pytest.approx(0.2, abs=0.02)
    assert effects["ctr"].always_valid.p < 0.001
    for name in ("latency_mean", "latency_p95"):
        assert effects[name].difference.low < 1.0 < effects[name].difference.high
    assert effects["degraded_share"].p_holm > 0.05
    for name in ("ctr", "clicks_per_user"):
        cuped = effects[name].cuped
        assert cuped is not None
        assert 0.2 < effects[name].reduction == pytest.approx(1 - cuped.variance / effects[name].difference.variance)
        assert cuped.low < effects[name].difference.control * 0.3 < cuped.high
    assert len(effects["ctr"].interim) == 4
    assert effects["ctr"].interim[-1].absolute == pytest.approx(effects["ctr"].difference.absolute)


def test_everything_is_counted(lifted: tuple[pl.DataFrame, pl.DataFrame, Analysis]) -> None:
    exposures, interactions, analysis = lifted
    requests = exposures.unique("request_id")
    assert analysis.exposures.rows == exposures.height
    assert analysis.exposures.analysed == sum(arm.requests for arm in analysis.arms) == requests.height
    assert analysis.exposures.replayed == exposures.height - requests.height > 0
    assert [arm.units for arm in analysis.arms] == [requests.filter(arm=arm)["unit"].n_unique() for arm in ARMS]
    assert [arm.weight for arm in analysis.arms] == [0.5, 0.5]
    during = interactions.filter(pl.col("time_ms") >= START_MS)
    assert analysis.attribution.attributed == sum(arm.clicks for arm in analysis.arms) == during.unique().height
    assert analysis.attribution.duplicates == during.height - analysis.attribution.attributed
    assert not analysis.ratio.alarm
    assert analysis.warnings == ()


def test_the_document_is_json(lifted: tuple[pl.DataFrame, pl.DataFrame, Analysis]) -> None:
    document = lifted[2].document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    effect = document["effects"][3]
    assert (effect["metric"], effect["cuped"], effect["reduction"]) == ("latency_mean", None, None)
    assert document["settings"]["clicks"] == {"types": ["click"], "least_value": None}


def test_neither_order_nor_repetition_changes_anything() -> None:
    exposures, interactions = tables(World(units=150, lift=0.3, seed=3))
    document = analyse(exposures, interactions, SETTINGS).document()
    mixed = tuple(frame.sample(fraction=1.0, shuffle=True, seed=4) for frame in (exposures, interactions))
    assert numbers(analyse(mixed[0], mixed[1], SETTINGS).document()) == pytest.approx(
        numbers(document), rel=1e-9, abs=1e-12
    )
    doubled = analyse(pl.concat([exposures, mixed[0]]), pl.concat([interactions, mixed[1]]), SETTINGS).document()
    for name in ("arms", "ratio", "effects", "breakdowns"):
        assert numbers(doubled[name]) == pytest.approx(numbers(document[name]), rel=1e-9, abs=1e-12)


def test_swapping_the_arms_flips_the_effects() -> None:
    exposures, interactions = tables(World(units=150, lift=0.3, seed=5))
    other = exposures.with_columns(pl.col("arm").replace(dict(zip(ARMS, reversed(ARMS), strict=True))))
    there, back = (analyse(frame, interactions, SETTINGS) for frame in (exposures, other))
    for effect, swapped in zip(there.effects, back.effects, strict=True):
        assert effect.difference.absolute == pytest.approx(-swapped.difference.absolute)
        assert effect.difference.p == pytest.approx(swapped.difference.p)
        assert effect.always_valid.p == pytest.approx(swapped.always_valid.p)
        if effect.cuped and swapped.cuped:
            assert effect.cuped.absolute == pytest.approx(-swapped.cuped.absolute)


def test_a_broken_split_is_told_with_the_slice_it_broke_in() -> None:
    exposures, interactions = tables(World(units=1200, lost=0.9, seed=4))
    analysis = analyse(exposures, interactions, SETTINGS)
    assert analysis.ratio.alarm
    assert analysis.warnings[0].startswith("Sample ratio mismatch, p = ")
    assert "Sample ratio mismatch by release: r2 (p = " in analysis.warnings[1]


def test_a_split_by_other_weights_is_sound() -> None:
    exposures, interactions = tables(World(units=300, seed=6))
    analysis = analyse(
        exposures, interactions, SETTINGS.model_copy(update={"weights": {"control": 9.0, "treatment": 1.0}})
    )
    assert analysis.ratio.alarm
    assert [arm.weight for arm in analysis.arms] == [0.9, 0.1]


def test_what_is_not_split_is_left_out_and_counted() -> None:
    exposures, interactions = tables(World(units=100, seed=7))
    first = exposures.sort("request_id").head(1)
    wrong = pl.concat(
        [
            first.with_columns(request_id=pl.lit("f1"), how=pl.lit("forced")),
            first.with_columns(request_id=pl.lit("f2"), how=pl.lit("unread")),
            first.with_columns(request_id=pl.lit("f3"), time_ms=START_MS - 1),
        ]
    )
    base, analysis = (
        analyse(exposures, interactions, SETTINGS),
        analyse(pl.concat([exposures, wrong]), interactions, SETTINGS),
    )
    assert analysis.exposures.left_out == {"forced": 1, "unread": 1}
    assert analysis.exposures.before_start == 1
    assert analysis.arms == base.arms
    assert set(analysis.warnings) - set(base.warnings) == {
        "1 exposures are left out because the arm that was kept for their unit could not be read."
    }


def test_a_unit_of_two_arms_is_left_out_and_named() -> None:
    exposures, interactions = tables(World(units=100, seed=7))
    moved = exposures.sort("request_id").head(1).with_columns(request_id=pl.lit("m"), how=pl.lit("sticky"))
    moved = moved.with_columns(pl.col("arm").replace(dict(zip(ARMS, reversed(ARMS), strict=True))))
    analysis = analyse(pl.concat([exposures, moved]), interactions, SETTINGS)
    unit = moved["unit"].item()
    assert analysis.multiple.listed == ((unit, ARMS),)
    assert analysis.exposures.several_arms == exposures.filter(unit=unit).height + 1
    assert analysis.arms == analyse(exposures.filter(pl.col("unit") != unit), interactions, SETTINGS).arms
    assert any(warning.startswith("1 units (") for warning in analysis.warnings)


def test_interleaved_answers_have_a_winner() -> None:
    random = np.random.default_rng(8)
    exposures, interactions = tables(World(units=300, seed=8))
    teams = [random.permutation(["new", "control"] * 5).tolist() for _ in range(exposures.height)]
    exposures = exposures.with_columns(teams=pl.Series(teams, dtype=EXPOSURES["teams"]))
    positions = exposures.select("request_id", item="items", team="teams").explode("item", "team")
    liked = interactions.join(positions, on=["request_id", "item"], how="left").filter(
        (pl.col("team") != "control").fill_null(True) | (pl.col("time_ms") % 2 == 0)
    )
    preferences = analyse(exposures, liked.select(INTERACTIONS.names()), SETTINGS).interleaving
    assert list(preferences) == list(ARMS)
    assert (preferences["control"].first, preferences["control"].second) == ("new", "control")
    assert preferences["control"].per_unit.share_low > 0.5
    assert preferences["control"].per_unit.p < 0.001
    odd = exposures.with_columns(teams=pl.lit(["a", "b", "c"]))
    broken = analyse(odd, interactions, SETTINGS)
    assert broken.interleaving == {}
    assert "Arm 'control': interleaving takes two teams, not a, b, c." in broken.warnings


def test_a_drawn_order_has_off_policy_values() -> None:
    exposures, interactions, _ = drawn(World(units=300, seed=9))
    settings = SETTINGS.model_copy(update={"weights": {"control": 1.0}, "clip": 20.0})
    analysis = analyse(exposures, interactions, settings)
    assert [value.estimator for value in analysis.off_policy[0].values] == ["on-policy", "IPS", "SNIPS", "DR"]
    assert analysis.effects == ()
    assert analysis.breakdowns[0].disjoint_arms == ()
    broken = analyse(exposures.with_columns(propensities=pl.lit([0.0])), interactions, settings)
    assert any(warning.startswith("Arm 'control': propensities must be") for warning in broken.warnings)


def test_the_tables_are_left_as_they_were() -> None:
    before, after = tables(World(units=20)), tables(World(units=20))
    analyse(*after, SETTINGS)
    for table, other in zip(before, after, strict=True):
        assert_frame_equal(table, other)


def test_without_a_start_it_is_the_first_exposure() -> None:
    exposures, interactions = tables(World(units=50))
    analysis = analyse(exposures, interactions, SETTINGS.model_copy(update={"start_ms": None}))
    assert analysis.start_ms == analysis.first_ms == exposures["time_ms"].min()
    assert analysis.attribution.before > 0


def test_nothing_to_analyse() -> None:
    exposures, interactions = tables(World(units=5))
    for frame in (exposures.clear(), exposures.with_columns(how=pl.lit("forced"))):
        with pytest.raises(ValueError, match="nothing to analyse"):
            analyse(frame, interactions, SETTINGS)
    with pytest.raises(ValueError, match="nothing to analyse"):
        analyse(exposures, interactions, SETTINGS.model_copy(update={"start_ms": START_MS + 99 * DAY_MS}))


def test_an_arm_that_the_file_has_no_more_is_compared_and_told() -> None:
    exposures, interactions = tables(World(units=300))
    analysis = analyse(exposures, interactions, SETTINGS.model_copy(update={"weights": {"control": 1.0}}))
    assert [(arm.arm, arm.weight) for arm in analysis.arms] == [("control", 1.0), ("treatment", 0.0)]
    assert "Arm 'treatment' is not in the file any more." in analysis.warnings
    assert {effect.arm for effect in analysis.effects} == {"treatment"}


def test_a_release_that_was_not_there_is_told() -> None:
    exposures, interactions = tables(World(units=300))
    away = pl.when(pl.col("arm") == "treatment").then(pl.lit(["not_pinned"])).otherwise(pl.col("degraded"))
    analysis = analyse(exposures.with_columns(degraded=away), interactions, SETTINGS)
    missed = "100.0% of the requests of arm 'treatment' missed a pinned release: the live one answered."
    assert [warning for warning in analysis.warnings if "missed" in warning] == [missed]


def test_clicks_of_other_requests_are_none_of_the_experiments() -> None:
    exposures, interactions = tables(World(units=300))
    mine = exposures.filter(pl.col("unit").hash(1) % 10 == 0)
    others = exposures.join(mine, on="request_id", how="anti")["request_id"]
    analysis = analyse(mine, interactions, SETTINGS, others)
    assert analysis.attribution.unknown_request == 0 < analysis.attribution.elsewhere
    assert not [warning for warning in analysis.warnings if "was not exposed" in warning]


def test_an_experiment_of_one_request_without_clicks() -> None:
    exposures, interactions = tables(World(units=5))
    analysis = analyse(exposures.head(1), interactions.clear(), SETTINGS)
    assert analysis.effects == ()
    assert "No click could be attributed, of 0." in analysis.warnings
    assert json.dumps(analysis.document(), allow_nan=False)


def test_findings_are_frozen(lifted: tuple[pl.DataFrame, pl.DataFrame, Analysis]) -> None:
    assert replace(lifted[2], warnings=("x",)).warnings == ("x",)
    with pytest.raises(AttributeError):
        lifted[2].control = "other"  # type: ignore[misc]
