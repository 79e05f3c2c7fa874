"""Clicks on shown items: interactions joined to the exposures that they answer, and the fate of the others.

Both streams deliver at least once and in any order, so everything is counted once, whatever the order of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from offline.ab.inputs import ClickRule

CLOCKS_DIFFER_MS = 5000
"""So much before its exposure a click may seem to come: its time may be another machine's, and it names its request."""

_EVENT = ("request_id", "item", "type")
_LOST = ("late", "early", "unknown_request", "elsewhere", "not_shown")
"""Fates of clicks that are not attributed."""


@dataclass(frozen=True, slots=True)
class AttributionCounts:
    """Numbers of interactions by their fate; all but ``other_unit`` add up to ``interactions``.

    attributed       in time, for an item that was shown; the first of its request, item and type
    duplicates       the same request, item and type again, in time
    late, early      after the window, and before the exposure by more than clocks differ
    unknown_request  names a request that was not exposed
    elsewhere        names a request outside the experiment
    not_shown        of an item that its request did not show
    no_request       names no request and was not, or could not be, given one
    no_click         not a click by the rule
    before           older than the experiment: the pre-period
    other_unit       of the attributed, those of another unit than the one exposed: a caller that mixes up its users, or
                     one whose unit is not the user
    """

    interactions: int
    attributed: int
    duplicates: int
    late: int
    early: int
    unknown_request: int
    elsewhere: int
    not_shown: int
    no_request: int
    no_click: int
    before: int
    other_unit: int


@dataclass(frozen=True, slots=True)
class Attribution:
    """``clicks``: request_id, item, position (from 0), time_ms of the first click of each shown item that has one."""

    clicks: pl.DataFrame
    counts: AttributionCounts


def first_of_requests(exposures: pl.DataFrame) -> pl.DataFrame:
    """The first row of every request id, ordered by it: a request that was logged or sent again counts once."""
    # Of rows of the same millisecond any may stay, but always the same one.
    return exposures.sort("request_id", "time_ms", "arm", "unit").unique(
        "request_id", keep="first", maintain_order=True
    )


def is_click(rule: ClickRule) -> pl.Expr:
    """Whether a row of interactions is a click."""
    condition = pl.col("type").is_not_null()  # a literal would be one row, whatever the table
    if rule.types:
        condition &= pl.col("type").is_in(sorted(rule.types))
    if rule.least_value is not None:
        condition &= pl.col("value") >= rule.least_value
    return condition.fill_null(False)


def attribute(
    exposures: pl.DataFrame,
    interactions: pl.DataFrame,
    rule: ClickRule,
    window_ms: int,
    start_ms: int,
    without_request: bool = False,
    elsewhere: pl.Series | None = None,
) -> Attribution:
    """Clicks of ``exposures``, one row per request id (``first_of_requests``), at most ``window_ms`` after them. With
    ``without_request``, clicks that name no request go to their unit's latest exposure of the item. ``elsewhere`` are
    the ids of requests that are known and none of ``exposures``."""
    during = interactions.filter(pl.col("time_ms") >= start_ms)
    clicks = during.filter(is_click(rule)).select("request_id", "unit", "item", "type", "time_ms")
    named, nameless = clicks.filter(pl.col("request_id").is_not_null()), clicks.filter(pl.col("request_id").is_null())
    if without_request:
        given = _latest(exposures, nameless, window_ms)
        named = pl.concat([named, given.select(named.columns)])
    else:
        given = nameless.clear()
    fated = _fates(exposures, named, window_ms, pl.Series([], dtype=pl.String) if elsewhere is None else elsewhere)
    in_time = fated.filter(pl.col("fate") == "in time").sort("request_id", "item", "time_ms", "type", "unit")
    events = in_time.unique(_EVENT, keep="first", maintain_order=True)
    first = events.unique(("request_id", "item"), keep="first", maintain_order=True)
    fates = dict(fated.group_by("fate").len().iter_rows())
    counts = AttributionCounts(
        interactions=interactions.height,
        attributed=events.height,
        duplicates=in_time.height - events.height,
        **{fate: fates.get(fate, 0) for fate in _LOST},
        no_request=nameless.height - given.height,
        no_click=during.height - clicks.height,
        before=interactions.height - during.height,
        other_unit=events.filter(pl.col("unit") != pl.col("exposed_unit")).height,
    )
    return Attribution(first.select("request_id", "item", "position", "time_ms"), counts)


def _fates(exposures: pl.DataFrame, clicks: pl.DataFrame, window_ms: int, elsewhere: pl.Series) -> pl.DataFrame:
    """Clicks with the unit of their request, the item's position in it, and their fate."""
    after, known = pl.col("time_ms") - pl.col("exposed_ms"), pl.col("request_id").is_in(elsewhere)
    fate = (
        pl.when(pl.col("exposed_ms").is_null())
        .then(pl.when(known).then(pl.lit("elsewhere")).otherwise(pl.lit("unknown_request")))
        .when(pl.col("position").is_null())
        .then(pl.lit("not_shown"))
        .when(after < -CLOCKS_DIFFER_MS)
        .then(pl.lit("early"))
        .when(after > window_ms)
        .then(pl.lit("late"))
        .otherwise(pl.lit("in time"))
    )
    requests = exposures.select("request_id", exposed_unit="unit", exposed_ms="time_ms")
    shown = _shown(exposures.join(clicks, on="request_id", how="semi")).select("request_id", "item", "position")
    joined = clicks.join(requests, on="request_id", how="left").join(shown, on=["request_id", "item"], how="left")
    return joined.with_columns(fate=fate)


def _latest(exposures: pl.DataFrame, clicks: pl.DataFrame, window_ms: int) -> pl.DataFrame:
    """The ``clicks``, none of which names a request, whose unit was shown the item in the window, with the latest such
    request."""
    shown = _shown(exposures.join(clicks, on="unit", how="semi")).join(clicks, on=["unit", "item"], how="semi")
    right = shown.select("unit", "item", "time_ms", given="request_id").sort("time_ms", "given")
    joined = clicks.sort("time_ms").join_asof(
        right, on="time_ms", by=["unit", "item"], strategy="backward", tolerance=window_ms, check_sortedness=False
    )
    return joined.filter(pl.col("given").is_not_null()).with_columns(request_id="given")


def _shown(exposures: pl.DataFrame) -> pl.DataFrame:
    """One row per shown item: request_id, unit, time_ms, item, position; an item shown twice has its first position."""
    positions = pl.int_ranges(0, pl.col("items").list.len(), dtype=pl.Int64)
    rows = exposures.select("request_id", "unit", "time_ms", item="items", position=positions)
    return (
        rows.explode("item", "position")
        .drop_nulls("item")
        .unique(("request_id", "item"), keep="first", maintain_order=True)
    )
