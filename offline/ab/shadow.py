"""From logged requests to an off-policy question: what if the best item by the shadow scores had been on top?

The action is the item at position 0, its reward is whether it was clicked, its propensity is the first one logged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from models.contract.arrays import Array
from offline.ab import offpolicy
from offline.ab.offpolicy import Log, Outlook, Value
from offline.ab.tables import EXPOSURES

_ALL_CANDIDATES = {"items": "unshown", "scores": "unshown_scores", "shadow": "unshown_shadow"}


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """Of one arm whose order was drawn. ``values``: the arm's own ("on-policy"), then the shadow policy's by IPS, SNIPS
    and DR, as far as they have one, all of the same ``requests``.

    ``left_out`` requests were drawn too, but do not have finite shadow scores for all their candidates: the shadow
    policy's best one is not known there. If that is all of them, ``values`` is only the arm's own, of all of them.
    """

    arm: str
    requests: int
    left_out: int
    values: tuple[Value, ...]


def off_policy(
    exposures: pl.DataFrame, clicks: pl.DataFrame, arm: str, clip: float | None = None, alpha: float = 0.05
) -> OffPolicy | None:
    """Of ``exposures`` (tables.EXPOSURES, one row per request id) of ``arm`` and the ``clicks`` [request_id, position]
    of their items. None if no order was drawn; ValueError if a propensity is not in 0..1, or is 0."""
    drawn = exposures.filter(
        (pl.col("arm") == arm) & (pl.col("propensities").list.len().fill_null(0) > 0) & (pl.col("items").list.len() > 0)
    ).sort("request_id")
    if not drawn.height:
        return None
    drawn = drawn.with_columns(
        pl.concat_list(pl.col(shown), pl.col(others).fill_null(pl.lit([], EXPOSURES[others]))).alias(shown)
        for shown, others in _ALL_CANDIDATES.items()
    )
    clicked = clicks.filter(pl.col("position") == 0).select("request_id", reward=pl.lit(1.0))
    drawn = drawn.join(clicked, on="request_id", how="left").sort("request_id")
    drawn = drawn.with_columns(pl.col("reward").fill_null(0.0))
    known = drawn.filter(_is_known())
    if not known.height:
        own = offpolicy.on_policy(_log(drawn, np.ones(drawn.height)), alpha)
        return OffPolicy(arm, drawn.height, drawn.height, (own,))
    best = _best(known)
    log = _log(known, (best == 0).astype(np.float64))
    values = [offpolicy.on_policy(log, alpha), offpolicy.ips(log, clip, alpha)]
    if log.target.any():
        values.append(offpolicy.snips(log, clip, alpha))
    if known["unit"].n_unique() > 1:
        outlook = Outlook(
            _features(known, np.zeros_like(best)), _features(known, best)[:, None], np.ones((len(best), 1))
        )
        values.append(offpolicy.doubly_robust(log, outlook, clip, alpha))
    return OffPolicy(arm, known.height, drawn.height - known.height, tuple(values))


def _is_known() -> pl.Expr:
    count = pl.col("items").list.len()
    aligned = (pl.col("shadow").list.len() == count) & (pl.col("scores").list.len() == count)
    each = pl.element().is_finite().fill_null(False)
    finite = pl.all_horizontal(pl.col("shadow", "scores").list.eval(each).list.all())
    return (aligned & finite & (pl.col("candidates") == count)).fill_null(False)


def _log(rows: pl.DataFrame, target: Array) -> Log:
    propensity = rows["propensities"].list.get(0).to_numpy()
    return Log(rows["reward"].to_numpy(), propensity, target, rows["unit"].to_numpy())


def _best(rows: pl.DataFrame) -> Array:
    """Position [n] of the candidate with the largest shadow score; of equal ones, that with the first id: by position,
    the log would choose."""
    positions = pl.int_ranges(0, pl.col("items").list.len(), dtype=pl.Int64)
    items = rows.with_row_index("row").select("row", "items", "shadow", position=positions)
    rows = items.explode("items", "shadow", "position")
    ranked = rows.sort("row", "shadow", "items", descending=[False, True, False])
    return ranked.unique("row", keep="first", maintain_order=True)["position"].to_numpy()


def _features(rows: pl.DataFrame, position: Array) -> Array:
    """[n, 4] of items at ``position`` [n]: score, shadow score, score above the request's mean, log of candidates."""
    at = rows.select("scores", "shadow", "candidates", position=pl.Series(position))
    columns = at.select(
        pl.col("scores").list.get(pl.col("position")),
        pl.col("shadow").list.get(pl.col("position")),
        above=pl.col("scores").list.get(pl.col("position")) - pl.col("scores").list.mean(),
        candidates=pl.col("candidates").log1p(),
    )
    return columns.to_numpy()
