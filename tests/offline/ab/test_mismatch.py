"""A broken split is seen, and where it broke; a sound one is left alone."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import chisquare  # type: ignore[import-untyped]  # has no types

from offline.ab.attribution import first_of_requests
from offline.ab.inputs import EXPOSURES
from offline.ab.mismatch import ALARM, breakdown, first_split, multiple_exposure, sample_ratio, split_ratio
from tests.offline.ab.simulate import World, tables

EVEN = {"control": 1.0, "treatment": 1.0}


def exposed(*rows: tuple[str, str, str, int]) -> pl.DataFrame:
    """(unit, arm, release, time_ms)."""
    return pl.DataFrame(
        [
            {"request_id": f"q{at}", "unit": unit, "arm": arm, "release": release, "time_ms": time}
            for at, (unit, arm, release, time) in enumerate(rows)
        ],
        EXPOSURES,
    )


def test_it_is_the_chi_square_test_of_the_weights() -> None:
    ratio = sample_ratio(
        {"control": 5200, "treatment": 1900, "other": 900}, {"control": 2, "treatment": 0.8, "other": 0.4}
    )
    assert ratio.expected == pytest.approx({"control": 5000, "treatment": 2000, "other": 1000})
    assert ratio.p == pytest.approx(chisquare([5200, 1900, 900], [5000, 2000, 1000]).pvalue)
    assert ratio.alarm


def test_sound_splits_alarm_in_a_thousandth() -> None:
    random = np.random.default_rng(1)
    treated = random.binomial(10_000, 0.5, 5000)
    alarms = [sample_ratio({"control": 10_000 - count, "treatment": int(count)}, EVEN).alarm for count in treated]
    assert 0 < np.mean(alarms) < 3 * ALARM


def test_an_arm_that_nobody_was_in_is_a_mismatch_and_one_of_weight_zero_is_none() -> None:
    assert sample_ratio({"control": 100}, EVEN).alarm
    ratio = sample_ratio({"control": 50, "treatment": 48, "off": 10}, EVEN | {"off": 0.0})
    assert (set(ratio.units), ratio.alarm) == ({"control", "treatment"}, False)


def test_each_unit_is_expected_by_the_split_of_its_time() -> None:
    """Half of the units were split evenly, half of them nine to one, and those of the first half come again, kept."""
    rows = []
    for at in range(4000):
        even = at < 2000
        treated = at % 2 == 0 if even else at % 10 == 0
        split = json.dumps({"control": 5000, "treatment": 5000} if even else {"control": 9000, "treatment": 1000})
        rows.append({"unit": f"u{at}", "arm": "treatment" if treated else "control", "how": "split", "split": split})
        if even:
            rows.append({**rows[-1], "how": "sticky", "split": "{}"})
    frame = pl.DataFrame([{**row, "request_id": f"q{at}", "time_ms": at} for at, row in enumerate(rows)], EXPOSURES)
    ratio = split_ratio(first_split(frame), {"control": 9.0, "treatment": 1.0})
    assert ratio.units == {"control": 2800, "treatment": 1200} == ratio.expected
    assert ratio.p == pytest.approx(1.0)
    kept_only = first_split(frame.filter(pl.col("time_ms") % 2 == 1).filter(how="sticky"))
    assert kept_only.is_empty()
    slices = breakdown(frame, "day", {"control": 9.0, "treatment": 1.0}).slices
    assert [(part.value, part.alarm) for part in slices] == [("1970-01-01", False)]
    lost = frame.filter(~((pl.col("arm") == "treatment") & (pl.col("time_ms") % 3 == 0)))
    assert split_ratio(first_split(lost), {"control": 9.0, "treatment": 1.0}).alarm


def test_a_split_of_whole_buckets_is_what_is_expected() -> None:
    rows = [("a", 34), ("b", 33), ("c", 33)]
    units = [{"arm": arm, "split": json.dumps(dict(rows))} for arm, count in rows for _ in range(count * 1000)]
    ratio = split_ratio(pl.DataFrame(units), {"a": 1, "b": 1, "c": 1})
    assert ratio.p == pytest.approx(1.0)
    assert sample_ratio(ratio.units, {"a": 1, "b": 1, "c": 1}).alarm, "it would be one, of a thousand units a bucket"


@pytest.mark.parametrize(
    ("units", "weights"), [({}, EVEN), ({"control": 9}, EVEN), ({"control": 99}, {"control": 1.0}), ({}, {})]
)
def test_what_is_too_little_to_test(units: dict[str, int], weights: dict[str, float]) -> None:
    ratio = sample_ratio(units, weights)
    assert math.isnan(ratio.p)
    assert not ratio.alarm


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(ValueError, match="without a weight: odd"):
        sample_ratio({"odd": 1}, EVEN)


def test_a_planted_mismatch_is_flagged_and_found_in_its_slice() -> None:
    for lost, alarm in ((0.0, False), (0.9, True)):
        exposures = first_of_requests(tables(World(units=1200, lost=lost, seed=4))[0])
        units = dict(exposures.group_by("arm").agg(pl.col("unit").n_unique()).iter_rows())
        assert sample_ratio(units, EVEN).alarm == alarm
        releases = {part.value: part.alarm for part in breakdown(exposures, "release", EVEN).slices}
        assert releases == {"r1": False, "r2": alarm}
        countries = breakdown(exposures, "context.country", EVEN)
        assert {part.value for part in countries.slices} == {"at", "de"}
        assert len(breakdown(exposures, "day", EVEN).slices) == 7
        if not alarm:
            assert not any(part.alarm for part in countries.slices)


def test_a_unit_is_in_the_slice_of_its_first_exposure() -> None:
    rows = [(f"u{at}", ("control", "treatment")[at % 2], "old", 10) for at in range(40)]
    later = [(unit, arm, "new", 20) for unit, arm, _, _ in rows if arm == "treatment"]
    by_release = breakdown(exposed(*later, *rows), "release", EVEN)
    assert [(part.value, part.ratio.units) for part in by_release.slices] == [("old", {"control": 20, "treatment": 20})]


def test_a_dimension_that_the_arms_set_says_nothing() -> None:
    rows = [(f"c{at}", "control", "live", 1) for at in range(40)]
    pinned = [(f"t{at}", "treatment", "pinned", 1) for at in range(45)]
    others = [(f"o{at}", "other", "live", 1) for at in range(41)]
    by_release = breakdown(exposed(*rows, *pinned), "release", EVEN)
    assert (by_release.disjoint_arms, by_release.slices) == (("control", "treatment"), ())
    by_release = breakdown(exposed(*rows, *pinned, *others), "release", EVEN | {"other": 1.0})
    assert by_release.disjoint_arms == ("treatment",)
    assert [part.ratio.units for part in by_release.slices] == [{"control": 40, "other": 41}]


def test_a_context_without_the_key_or_that_is_none() -> None:
    frame = exposed(*[(f"u{at}", "control", "r", at) for at in range(4)])
    frame = frame.with_columns(context=pl.Series(['{"a b": 1}', "{}", "broken", None], dtype=pl.String))
    by_context = breakdown(frame, "context.a b", {"control": 1.0})
    assert {part.value: part.ratio.units["control"] for part in by_context.slices} == {"1": 1, "(none)": 3}
    for dimension in ("colour", "context.", "context.it's"):
        with pytest.raises(ValueError, match="none of release"):
            breakdown(frame, dimension, {"control": 1.0})


def test_units_of_several_arms_are_listed_and_left_out() -> None:
    rows = [
        ("ann", "control", "r", 1),
        ("ann", "treatment", "r", 2),
        ("ann", "control", "r", 3),
        ("bob", "control", "r", 1),
    ]
    rows += [("cid", "treatment", "r", 1), ("cid", "control", "r", 5), ("dan", "treatment", "r", 1)]
    single, multiple = multiple_exposure(exposed(*rows), listed=1)
    assert sorted(single["unit"]) == ["bob", "dan"]
    assert (multiple.units, multiple.share) == (2, 0.5)
    assert multiple.listed == (("ann", ("control", "treatment")),)
    assert multiple_exposure(exposed())[1].share == 0
