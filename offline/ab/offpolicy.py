"""Estimates of the reward that a policy would have earned, from the log of another one that drew its actions with known
propensities; and the question that is put to logged requests: what if the best item by the shadow scores had been on
top? There the action is the item at position 0, its reward is whether it was clicked, its propensity is the first one
logged.

Inverse propensity scoring, its self-normalised form (Swaminathan and Joachims, NeurIPS 2015), and the doubly robust
estimator (Dudik, Langford and Li, ICML 2011) with a cross-fitted reward model. Rows of one cluster (a unit) may depend
on each other: every estimate is a ratio of sums over clusters, whose interval is the delta method's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtrit  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array
from offline.ab.inputs import EXPOSURES
from offline.ab.metrics import of_ratio

_ALL_CANDIDATES = {"items": "unshown", "scores": "unshown_scores", "shadow": "unshown_shadow"}
_FOLDS = 5  # of the reward model's cross-fitting


@dataclass(frozen=True, slots=True)
class Log:
    """n logged actions. ``reward`` [n]; ``logging`` [n], the probability with which the logging policy took the action;
    ``target`` [n], that with which the policy in question would have; ``cluster`` [n] of anything sortable. ValueError
    where lengths differ, a logged action had no probability, or a number is none."""

    reward: Array
    logging: Array
    target: Array
    cluster: Array

    def __post_init__(self) -> None:
        if len({len(self.reward), len(self.logging), len(self.target), len(self.cluster)}) > 1:
            raise ValueError("rewards, propensities and clusters must be of one length")
        if not len(self.reward):
            raise ValueError("an empty log has no value")
        if not all(np.isfinite(column).all() for column in (self.reward, self.logging, self.target)):
            raise ValueError("rewards and propensities must be finite")
        if not ((self.logging > 0) & (self.logging <= 1) & (self.target >= 0) & (self.target <= 1)).all():
            raise ValueError("propensities must be in 0..1, and above 0 where the action was logged")


@dataclass(frozen=True, slots=True)
class Value:
    """Mean reward per action, with bounds of its 1 - alpha interval; NaN without two clusters.

    effective_rows    (sum of weights)^2 / sum of squared weights: as many rows of the policy itself say as much
    mean_weight       1 on average if the logging policy could take every action that the other one would
    clipped_share     share of rows whose weight was cut
    """

    estimator: str
    value: float
    low: float
    high: float
    rows: int
    clusters: int
    effective_rows: float
    mean_weight: float
    clipped_share: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """Inputs from which the doubly robust estimator predicts rewards: ``logged`` [n, d], features of each row's context
    and logged action; ``actions`` [n, a, d], those with each possible action; ``target`` [n, a], the policy's
    probabilities, which add up to 1. Rows with fewer actions are padded with probability 0."""

    logged: Array
    actions: Array
    target: Array

    def __post_init__(self) -> None:
        rows, count, width = self.actions.shape
        if self.logged.shape != (rows, width) or self.target.shape != (rows, count):
            raise ValueError("features and probabilities of actions do not fit together")
        if not np.allclose(self.target.sum(axis=1), 1.0, atol=1e-6):
            raise ValueError("probabilities of the policy's actions must add up to 1")


def on_policy(log: Log, alpha: float = 0.05) -> Value:
    """The logging policy's own value: the mean reward."""
    return _value("on-policy", log, np.ones(len(log.reward)), log.reward, 0.0, alpha)


def ips(log: Log, clip: float | None = None, alpha: float = 0.05) -> Value:
    """Mean of weighted rewards. Unbiased without ``clip``, which caps weights."""
    weight, cut = _weights(log, clip)
    return _value("IPS", log, weight, weight * log.reward, cut, alpha)


def snips(log: Log, clip: float | None = None, alpha: float = 0.05) -> Value:
    """Weighted rewards per weight: a little biased, and of a much smaller variance where weights vary. ValueError if
    the other policy would have taken none of the logged actions."""
    weight, cut = _weights(log, clip)
    return _value("SNIPS", log, weight, weight * log.reward, cut, alpha, base=weight)


def doubly_robust(
    log: Log, outlook: Outlook, clip: float | None = None, alpha: float = 0.05, model: Any = None
) -> Value:
    """The reward model's prediction under the policy, plus IPS of what it got wrong: right if either the propensities
    or the model are. ``model`` is a regressor of scikit-learn, by default ridge regression on standardised features; it
    predicts clusters that it was not fitted to (Chernozhukov et al. 2018, arXiv 1608.00060). ValueError with one
    cluster."""
    from sklearn.base import clone  # a second of imports, for reports with shadow scores alone
    from sklearn.model_selection import GroupKFold

    weight, cut = _weights(log, clip)
    predicted, foreseen = np.zeros(len(weight)), np.zeros(outlook.target.shape)
    regressor = _ridge() if model is None else model
    folds = min(_FOLDS, len(np.unique(log.cluster)))
    if folds < 2:
        raise ValueError("a cross-fitted reward model takes two clusters")
    # GroupKFold takes clusters apart in the order of their labels; shuffled, so that labels may be ordered in time.
    splits = GroupKFold(folds, shuffle=True, random_state=0)
    for fitted, rest in splits.split(outlook.logged, groups=log.cluster):
        with np.errstate(invalid="ignore"):  # the variance of a constant feature may come out below 0, and is seen to
            fit = clone(regressor).fit(outlook.logged[fitted], log.reward[fitted])
        predicted[rest] = fit.predict(outlook.logged[rest])
        rows = outlook.actions[rest].reshape(-1, outlook.actions.shape[2])
        foreseen[rest] = fit.predict(rows).reshape(len(rest), -1)
    pseudo = (outlook.target * foreseen).sum(axis=1) + weight * (log.reward - predicted)
    return _value("DR", log, weight, pseudo, cut, alpha)


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """Off-policy values of one arm whose order was drawn. ``values``: the arm's own ("on-policy"), then the shadow
    policy's by IPS, SNIPS and DR, as far as they have one, all of the same ``requests``.

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
    """The values in ``exposures`` (inputs.EXPOSURES, one row per request id) of ``arm`` and the ``clicks`` [request_id,
    position] of their items. None if no order was drawn; ValueError if a propensity is not in 0..1, or is 0."""
    drawn = exposures.filter(
        (pl.col("arm") == arm) & (pl.col("propensities").list.len().fill_null(0) > 0) & (pl.col("items").list.len() > 0)
    )
    if not drawn.height:
        return None
    clicked = clicks.filter(pl.col("position") == 0).select("request_id", reward=pl.lit(1.0))
    drawn = drawn.join(clicked, on="request_id", how="left").sort("request_id")
    drawn = drawn.with_columns(
        *(
            pl.concat_list(pl.col(shown), pl.col(others).fill_null(pl.lit([], EXPOSURES[others]))).alias(shown)
            for shown, others in _ALL_CANDIDATES.items()
        ),
        pl.col("reward").fill_null(0.0),
    )
    known = drawn.filter(_is_known())
    if not known.height:
        own = on_policy(_log(drawn, np.ones(drawn.height)), alpha)
        return OffPolicy(arm, drawn.height, drawn.height, (own,))
    best = _best(known)
    log = _log(known, (best == 0).astype(np.float64))
    values = [on_policy(log, alpha), ips(log, clip, alpha)]
    if log.target.any():
        values.append(snips(log, clip, alpha))
    if known["unit"].n_unique() > 1:
        logged, chosen = _features(known, np.zeros_like(best)), _features(known, best)[:, None]
        values.append(doubly_robust(log, Outlook(logged, chosen, np.ones((len(best), 1))), clip, alpha))
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


def _ridge() -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge())


def _weights(log: Log, clip: float | None) -> tuple[Array, float]:
    """Importance weights [n], capped, and the share of them that the cap changed."""
    weight = log.target / log.logging
    if clip is None:
        return weight, 0.0
    if not clip > 0:
        raise ValueError("weights are clipped at something above 0")
    return np.minimum(weight, clip), float(np.mean(weight > clip))


def _value(
    name: str, log: Log, weight: Array, earned: Array, cut: float, alpha: float, base: Array | None = None
) -> Value:
    """Sum of ``earned`` [n] over the sum of ``base`` [n], by default the number of rows, clusters being independent."""
    _, cluster = np.unique(log.cluster, return_inverse=True)
    values = of_ratio(np.bincount(cluster, earned), np.bincount(cluster, base).astype(np.float64))
    mean, reach = float(values.mean()), float("nan")
    if len(values) > 1:
        reach = float(stdtrit(len(values) - 1, 1 - alpha / 2) * np.std(values, ddof=1) / np.sqrt(len(values)))
    squares = float(np.sum(weight**2))
    return Value(
        estimator=name,
        value=mean,
        low=mean - reach,
        high=mean + reach,
        rows=len(weight),
        clusters=len(values),
        effective_rows=float(weight.sum() ** 2 / squares) if squares else 0.0,
        mean_weight=float(weight.mean()),
        clipped_share=cut,
    )
