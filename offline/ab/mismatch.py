"""The split against its configuration: sample ratio mismatch (Fabijan et al., KDD 2019), overall and by dimension, and
units that were seen in more than one arm.

A mismatch makes every other number of the experiment worthless: units that got lost are not lost at random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import chi2, chisquare  # type: ignore[import-untyped]  # has no types

from offline.ab.difference import NAN, holm

ALARM = 0.001
"""Below this p the split is taken to be broken: the customary level of sample ratio checks."""

_FEWEST = 5.0  # expected units in every arm from which the chi-square approximation is trusted
_MOST_SLICES = 50


@dataclass(frozen=True, slots=True)
class Ratio:
    """Units of each arm, as found and as expected from the weights, and the p-value of chi-square's test; NaN if too
    few are expected. Arms of weight 0 are in neither."""

    units: dict[str, int]
    expected: dict[str, float]
    p: float
    alarm: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """Units whose first exposure was of this value. ``p_holm`` is adjusted over the slices of the dimension."""

    value: str
    ratio: Ratio
    p_holm: float
    alarm: bool


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The ratio in slices, most units first, at most 50, without ``disjoint_arms``: arms that share no value with any
    other arm, as when an arm pins a release, so that the dimension says nothing of their split."""

    dimension: str
    slices: tuple[Slice, ...]
    disjoint_arms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MultipleExposure:
    """Units that were seen in more than one arm: how many, their share of all, and some of them, with their arms."""

    units: int
    share: float
    listed: tuple[tuple[str, tuple[str, ...]], ...]


def sample_ratio(units: Mapping[str, int], weights: Mapping[str, float]) -> Ratio:
    """The ratio of unique units per arm; an arm of ``weights`` that has none is expected all the same. ValueError for
    an arm without a weight."""
    if unknown := sorted(set(units) - set(weights)):
        raise ValueError(f"arms without a weight: {', '.join(unknown)}")
    split = [arm for arm, weight in weights.items() if weight > 0]
    observed = np.array([units.get(arm, 0) for arm in split], np.float64)
    shares = np.array([weights[arm] for arm in split], np.float64)
    expected = observed.sum() * shares / shares.sum() if len(split) else shares
    testable = len(split) > 1 and expected.min() >= _FEWEST
    p = float(chisquare(observed, expected).pvalue) if testable else NAN
    counts = dict(zip(split, observed.astype(int).tolist(), strict=True))
    return Ratio(counts, dict(zip(split, expected.tolist(), strict=True)), p, p < ALARM)


def split_ratio(units: pl.DataFrame, weights: Mapping[str, float], disjoint_arms: Collection[str] = ()) -> Ratio:
    """The ratio of units [arm, split], one row each, without ``disjoint_arms``: each against the buckets that the arms
    had when it was split, since weights may have changed; against ``weights`` where nothing says so. The statistics of
    all such splits are added up. ValueError for an arm without a weight."""
    comparable = units.filter(~pl.col("arm").is_in(list(disjoint_arms)))
    observed, expected = (dict.fromkeys([arm for arm in weights if arm not in disjoint_arms], 0.0) for _ in range(2))
    statistic, freedom = 0.0, 0
    for (split,), rows in comparable.group_by("split"):
        shares = weights if not split or split == "{}" else json.loads(str(split))
        counted = dict(rows.group_by("arm").len().iter_rows())
        part = sample_ratio(counted, {arm: share for arm, share in shares.items() if arm not in disjoint_arms})
        for arm, units_there in part.units.items():
            observed[arm] = observed.get(arm, 0.0) + units_there
            expected[arm] = expected.get(arm, 0.0) + part.expected[arm]
        if not math.isnan(part.p):
            statistic += sum((part.units[arm] - there) ** 2 / there for arm, there in part.expected.items())
            freedom += len(part.units) - 1
    p = float(chi2.sf(statistic, freedom)) if freedom else NAN
    listed = {arm: int(count) for arm, count in observed.items() if weights.get(arm) or expected[arm]}
    return Ratio(listed, {arm: expected[arm] for arm in listed}, p, p < ALARM)


def first_split(exposures: pl.DataFrame) -> pl.DataFrame:
    """The first exposure of each unit in which it was split by its hash. Units that only went on in an arm that was
    kept for them were split before: they say nothing of the split, and are none of these."""
    split = exposures.filter(pl.col("how").fill_null("split") == "split")
    return split.sort("time_ms", "request_id").unique("unit", keep="first")


def breakdown(exposures: pl.DataFrame, dimension: str, weights: Mapping[str, float]) -> Breakdown:
    """The ratio by "release", "day" (UTC) or "context.KEY" of each unit's ``first_split``, which the arm has not yet
    influenced: by later exposures, an arm that makes units come back would look like a broken split.

    ``exposures`` as inputs.EXPOSURES, of units that are in one arm. ValueError for another dimension, or an arm without
    a weight.
    """
    first = first_split(exposures).with_columns(value=_value(dimension))
    disjoint_arms = _disjoint_arms(first)
    comparable = first.filter(~pl.col("arm").is_in(list(disjoint_arms)))
    sizes = comparable.group_by("value").len().sort("len", "value", descending=[True, False])
    order = sizes["value"].head(_MOST_SLICES).to_list()
    ratios = [split_ratio(comparable.filter(pl.col("value") == value), weights, disjoint_arms) for value in order]
    tested = zip(order, ratios, holm([ratio.p for ratio in ratios]), strict=True)
    slices = (Slice(value, ratio, p, p < ALARM) for value, ratio, p in tested)
    return Breakdown(dimension, tuple(slices), disjoint_arms)


def multiple_exposure(exposures: pl.DataFrame, listed: int = 20) -> tuple[pl.DataFrame, MultipleExposure]:
    """The exposures of units that were seen in one arm only, and what is known of the others."""
    arms = exposures.group_by("unit").agg(pl.col("arm").unique().sort())
    several = arms.filter(pl.col("arm").list.len() > 1).sort("unit")
    rows: Sequence[tuple[str, list[str]]] = several.head(listed).rows()
    share = several.height / arms.height if arms.height else 0.0
    multiple = MultipleExposure(several.height, share, tuple((unit, tuple(names)) for unit, names in rows))
    return exposures.join(several, on="unit", how="anti"), multiple


def _disjoint_arms(units: pl.DataFrame) -> tuple[str, ...]:
    """Arms of units [arm, value] that are alone in all of their values, while there are others; sorted."""
    shared = pl.col("arm").n_unique().over("value") > 1
    arms = units.select("arm", shared=shared).group_by("arm").agg(pl.col("shared").any()).sort("arm")
    return tuple(arms.filter(~pl.col("shared"))["arm"]) if arms.height > 1 else ()


def _value(dimension: str) -> pl.Expr:
    kind, _, key = dimension.partition(".")
    if dimension == "release":
        value = pl.col("release")
    elif dimension == "day":
        value = pl.from_epoch("time_ms", time_unit="ms").dt.strftime("%Y-%m-%d")
    elif kind == "context" and key and "'" not in key:
        value = pl.col("context").str.json_path_match(f"$['{key}']")
    else:
        raise ValueError(f"{dimension!r} is none of release, day and context.KEY")
    return value.fill_null("(none)")
