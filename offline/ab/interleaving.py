"""Team-draft interleaving: whose results were clicked, within the same answers (Chapelle, Joachims, Radlinski and Yue,
TOIS 2012, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import binomtest  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array
from offline.ab.difference import NAN


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who won how many, and the exact sign test of "both win as often", ties aside.

    ``share`` is the first team's share of the decided, with its exact (Clopper-Pearson) interval; NaN, and p 1, if
    nothing was decided. ``preference`` is Chapelle's Delta: (wins + ties / 2) / all - 1/2, from -0.5 to 0.5; NaN of
    nothing.
    """

    wins: int
    losses: int
    ties: int
    share: float
    share_low: float
    share_high: float
    p: float
    preference: float


@dataclass(frozen=True, slots=True)
class Interleaving:
    """The first team against the second. ``per_unit`` is the result: units are independent. ``per_request`` counts
    every request, and its p is too small where units come back."""

    first: str
    second: str
    first_clicks: int
    second_clicks: int
    per_unit: Outcome
    per_request: Outcome


def interleaving(
    exposures: pl.DataFrame, clicks: pl.DataFrame, first: str, second: str, alpha: float = 0.05
) -> Interleaving:
    """The preference in ``exposures`` [request_id, unit, teams] that were interleaved and the ``clicks`` [request_id,
    position] of their items. Clicks on positions of no team, or beyond the teams, are nobody's.

    ValueError if ``teams`` names anybody else.
    """
    named = set(exposures["teams"].explode().drop_nulls().unique().to_list()) - {""}
    if others := sorted(named - {first, second}):
        raise ValueError(f"teams other than {first!r} and {second!r}: {', '.join(others)}")
    requests = exposures.select("request_id", "unit", "teams")
    team = pl.col("teams").list.get(pl.col("position"), null_on_oob=True)
    owned = clicks.join(requests, on="request_id").select("request_id", team=team)
    scores = owned.group_by("request_id").agg(
        won=(pl.col("team") == first).sum().cast(pl.Int64), lost=(pl.col("team") == second).sum().cast(pl.Int64)
    )
    per_request = requests.join(scores, on="request_id", how="left").with_columns(pl.col("won", "lost").fill_null(0))
    per_unit = per_request.group_by("unit").agg(pl.col("won", "lost").sum())
    return Interleaving(
        first=first,
        second=second,
        first_clicks=int(per_unit["won"].sum()),
        second_clicks=int(per_unit["lost"].sum()),
        per_unit=outcome(per_unit["won"].to_numpy(), per_unit["lost"].to_numpy(), alpha),
        per_request=outcome(per_request["won"].to_numpy(), per_request["lost"].to_numpy(), alpha),
    )


def outcome(won: Array, lost: Array, alpha: float = 0.05) -> Outcome:
    """The outcome of clicks on each team's items, [n] each."""
    wins, losses = int(np.sum(won > lost)), int(np.sum(won < lost))
    ties = len(won) - wins - losses
    preference = (wins + ties / 2) / len(won) - 0.5 if len(won) else NAN
    if not wins + losses:
        return Outcome(wins, losses, ties, NAN, NAN, NAN, p=1.0, preference=preference)
    test = binomtest(wins, wins + losses)
    bounds = test.proportion_ci(1 - alpha)
    share = wins / (wins + losses)
    return Outcome(wins, losses, ties, share, float(bounds.low), float(bounds.high), float(test.pvalue), preference)
