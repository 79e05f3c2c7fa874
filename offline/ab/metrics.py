"""Metrics of an experiment, from sums per unit: clicks, their places in the list, latency, degraded answers.

Units are those that were exposed, all of them: an arm that loses the clicks of some units must not lose the units too.
They are what was randomised, so they are what is independent. A metric is one value per unit: the mean of these is the
metric, and their variance over units is the delta method's (Deng, Knoblich and Lu, KDD 2018, arXiv 1803.06336: section
2 for ratios, section 4 for quantiles), so that differences, CUPED and sequential tests treat all metrics alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy.stats import norm  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array
from offline.ab.attribution import is_click
from offline.ab.inputs import ClickRule


@dataclass(frozen=True, slots=True)
class ArmSums:
    """The units of one arm [u], and the answered requests [r] of all of them.

    requests, shown   [u] answered requests, and items in them
    clicks            [u] shown items that were clicked
    ndcg              [u] mean NDCG over the unit's requests
    degraded          [u] requests with anything degraded
    history           [u, 2] clicks and interactions of the pre-period
    latency, owner    [r] milliseconds of a request, and the number of its unit; requests without a latency are left out
    """

    requests: Array
    shown: Array
    clicks: Array
    ndcg: Array
    degraded: Array
    history: Array
    latency: Array
    owner: Array

    @property
    def units(self) -> int:
        return len(self.requests)


_SUMMED = ("requests", "shown", "clicks", "ndcg", "degraded")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: ``values`` makes its values [u] and raises ValueError where there is
    nothing to measure; ``with_history`` says whether CUPED may lean on the pre-period."""

    name: str
    meaning: str
    better: Literal["higher", "lower"]
    values: Callable[[ArmSums], Array]
    with_history: bool


def of_ratio(numerator: Array, denominator: Array) -> Array:
    """Values [units] of the sum of ``numerator`` [units] over the sum of ``denominator`` [units]. ValueError if the
    denominators add up to nothing."""
    mean = float(np.mean(denominator)) if len(denominator) else 0.0
    if not mean > 0:
        raise ValueError("a ratio whose denominators do not add up to more than 0 has no value")
    ratio = float(np.mean(numerator)) / mean
    return np.asarray(ratio + (numerator - ratio * denominator) / mean)


def of_quantile(values: Array, owner: Array, units: int, share: float) -> Array:
    """Values [units] of the ``share`` quantile of ``values`` [n], of which ``owner`` [n] names the unit from 0.

    The density at the quantile is taken from the quantiles at both ends of the interval of the share below it ("outer"
    interval of section 4.2), which needs neither a kernel nor a bandwidth. ValueError without values.
    """
    if not len(values):
        raise ValueError("a quantile of no values")
    quantile = np.quantile(values, share)
    count = np.bincount(owner, minlength=units).astype(np.float64)
    below = of_ratio(np.bincount(owner, values <= quantile, units), count)
    reach = norm.ppf(0.975) * np.std(below, ddof=1) / np.sqrt(units) if units > 1 else 0.0
    shares = np.clip([below.mean() - reach, below.mean() + reach], 0.0, 1.0)
    low, high = np.quantile(values, shares)
    slope = (high - low) / (shares[1] - shares[0]) if shares[1] > shares[0] else 0.0
    return np.asarray(quantile - slope * (below - below.mean()))


def mean_latency(arm: ArmSums) -> Array:
    """Values [u] of the mean latency over requests."""
    total = np.bincount(arm.owner, arm.latency, arm.units)
    return of_ratio(total, np.bincount(arm.owner, minlength=arm.units).astype(np.float64))


def slow_latency(arm: ArmSums) -> Array:
    """Values [u] of the 95th percentile of latency over requests."""
    return of_quantile(arm.latency, arm.owner, arm.units, 0.95)


METRICS = (
    Metric("ctr", "clicked share of shown items", "higher", lambda arm: of_ratio(arm.clicks, arm.shown), True),
    Metric("clicks_per_user", "clicked items per exposed unit", "higher", lambda arm: arm.clicks, True),
    Metric("ndcg", "NDCG of clicks, mean over units of their mean request", "higher", lambda arm: arm.ndcg, True),
    Metric("latency_mean", "mean latency in ms", "lower", mean_latency, False),
    Metric("latency_p95", "95th percentile of latency in ms", "lower", slow_latency, False),
    Metric(
        "degraded_share",
        "share of requests with anything degraded",
        "lower",
        lambda arm: of_ratio(arm.degraded, arm.requests),
        False,
    ),
)


def arm_sums(requests: pl.DataFrame, history: pl.DataFrame) -> dict[str, ArmSums]:
    """Sums of every arm of ``request_sums``, units in order; ``history`` is that of ``unit_history``. Every unit must
    be in one arm."""
    units = (
        requests.group_by("arm", "unit")
        .agg(
            pl.len().alias("requests"),
            pl.col("shown", "clicks", "degraded").sum(),
            pl.col("ndcg").mean(),
            pl.col("latency_ms"),
        )
        .join(history, on="unit", how="left")
        .with_columns(pl.col("past_clicks", "past_events").fill_null(0))
        .sort("unit")
    )
    return {str(arm): _sums(rows) for (arm,), rows in units.partition_by("arm", as_dict=True).items()}


def request_sums(exposures: pl.DataFrame, clicks: pl.DataFrame) -> pl.DataFrame:
    """One row per row of ``exposures``: request_id, unit, arm, time_ms, latency_ms, shown, clicks, ndcg, degraded.

    ``clicks`` is an ``Attribution``'s. NDCG has gains 0 and 1 and discount 1 / log2(rank + 1) (Järvelin and Kekäläinen,
    TOIS 2002); a request without clicks has 0, so that both arms are averaged over the same kind of requests.
    """
    gain = 1 / (pl.col("position") + 2).log(2)
    per_request = clicks.group_by("request_id").agg(pl.len().alias("clicks"), gain.sum().alias("gain"))
    most = int(clicks.group_by("request_id").len()["len"].max() or 0) if clicks.height else 0  # type: ignore[arg-type]
    ideal = pl.DataFrame({"clicks": np.arange(1, most + 1), "ideal": np.cumsum(1 / np.log2(np.arange(most) + 2))})
    scored = per_request.with_columns(pl.col("clicks").cast(pl.Int64)).join(ideal, on="clicks", how="left")
    return (
        exposures.sort("request_id")
        .select(
            *("request_id", "unit", "arm", "time_ms", "latency_ms"),
            shown=pl.col("items").list.len().cast(pl.Int64),
            degraded=(pl.col("degraded").list.len() > 0).fill_null(False).cast(pl.Int64),
        )
        .join(scored.select("request_id", "clicks", ndcg=pl.col("gain") / pl.col("ideal")), on="request_id", how="left")
        .with_columns(pl.col("clicks").fill_null(0), pl.col("ndcg").fill_null(0.0), pl.col("shown").fill_null(0))
    )


def unit_history(interactions: pl.DataFrame, rule: ClickRule, start_ms: int, length_ms: int | None) -> pl.DataFrame:
    """Per unit its past_clicks and past_events in the ``length_ms`` before the start; ever before it if None. The same
    interaction sent again counts once."""
    past = pl.col("time_ms") < start_ms
    if length_ms is not None:
        past &= pl.col("time_ms") >= start_ms - length_ms
    rows = interactions.filter(past).unique(("unit", "item", "type", "value", "time_ms"))
    clicked = is_click(rule).cast(pl.Int64).sum().alias("past_clicks")
    return rows.group_by("unit").agg(clicked, pl.len().cast(pl.Int64).alias("past_events"))


def _sums(rows: pl.DataFrame) -> ArmSums:
    latency = rows.select(pl.int_range(pl.len()).alias("owner"), "latency_ms").explode("latency_ms")
    latency = latency.filter(pl.col("latency_ms").is_finite())
    sums = {name: rows[name].to_numpy().astype(np.float64) for name in _SUMMED}
    past = rows.select("past_clicks", "past_events").to_numpy().astype(np.float64)
    return ArmSums(**sums, history=past, latency=latency["latency_ms"].to_numpy(), owner=latency["owner"].to_numpy())
