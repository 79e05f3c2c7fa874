"""Experiments with users of very different activity and taste, of which the truth is known.

A unit's activity is log-normal and its taste for clicking is its own (beta), so that rows of one unit are alike. As
sums per unit and day where a thousand experiments are wanted, as tables where a few go the whole way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from models.contract.arrays import Array
from offline.ab.inputs import DAY_MS, EXPOSURES, INTERACTIONS

SHOWN = 10
START_MS = 1_700_006_400_000  # midnight, UTC
ARMS = ("control", "treatment")


@dataclass(frozen=True, slots=True)
class Daily:
    """``treated`` bool [u]; ``requests`` and ``clicks`` [u, days]; ``history`` [u, 2] clicks and shown items of the
    two weeks before. Every request shows 10 items."""

    treated: Array
    requests: Array
    clicks: Array
    history: Array

    def until(self, day: int) -> Daily:
        """Sums [u, 1] of the first ``day`` days, of the units that were seen in them."""
        requests, clicks = self.requests[:, :day].sum(axis=1), self.clicks[:, :day].sum(axis=1)
        seen = requests > 0
        return Daily(self.treated[seen], requests[seen, None], clicks[seen, None], self.history[seen])

    def arms(self, values: Array) -> tuple[Array, Array]:
        """``values`` [u] of the treated, and of control."""
        return values[self.treated], values[~self.treated]


def daily(random: np.random.Generator, units: int, days: int, lift: float = 0.0) -> Daily:
    """Units come in day by day, most of them early, and come back; treatment multiplies everybody's chance to click by
    1 + ``lift``."""
    activity, taste = _people(random, units)
    treated = random.random(units) < 0.5
    here = np.arange(days) >= (days * random.random(units) ** 2).astype(np.int64)[:, None]
    requests = random.poisson(activity[:, None] * here)
    clicks = random.binomial(SHOWN * requests, (taste * (1 + lift * treated))[:, None])
    before = SHOWN * random.poisson(activity * 14)
    history = np.stack([random.binomial(before, taste), before], axis=1).astype(np.float64)
    return Daily(treated, requests, clicks, history)


def totals(random: np.random.Generator, units: int, lift: float = 0.0) -> tuple[Array, Array]:
    """Clicks and shown items [units] of one arm, every unit having at least one request."""
    activity, taste = _people(random, units)
    shown = SHOWN * (1 + random.poisson(5 * activity))
    return random.binomial(shown, taste * (1 + lift)).astype(np.float64), shown.astype(np.float64)


@dataclass(frozen=True, slots=True)
class World:
    """The truth that is planted into the tables of one experiment.

    lift        by which treatment multiplies every chance to click, less 1
    lost        share of treatment's units on release "r2" that never arrive: a mismatch in that slice only
    slower      milliseconds that treatment adds
    repeated    share of the rows of both tables that arrive twice
    """

    units: int = 400
    days: int = 7
    lift: float = 0.0
    lost: float = 0.0
    slower: float = 0.0
    repeated: float = 0.0
    seed: int = 0


def tables(world: World) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exposures and interactions, the latter also of the two weeks before, in random order."""
    random = np.random.default_rng(world.seed)
    activity, taste = _people(random, world.units)
    exposures: list[dict[str, Any]] = []
    interactions: list[dict[str, Any]] = []
    for number in range(world.units):
        unit, treated, release = f"u{number}", bool(random.random() < 0.5), f"r{1 + int(random.random() < 0.3)}"
        interactions += _before(random, unit, activity[number], taste[number])
        if treated and release == "r2" and random.random() < world.lost:
            continue
        chance = float(taste[number]) * (1 + world.lift * treated)
        for at in range(1 + int(random.poisson(activity[number]))):
            row = _exposure(random, f"{unit}-{at}", unit, treated, release, world)
            exposures.append(row)
            interactions += _clicks(random, row, chance)
    return _shuffled(random, exposures, EXPOSURES, world), _shuffled(random, interactions, INTERACTIONS, world)


def drawn(world: World, shadow: bool = True) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    """Tables of one arm whose first item is drawn in proportion to its score, and the true chance that the item that
    is best by the shadow scores would be clicked there: an item's shadow score is its chance."""
    random = np.random.default_rng(world.seed)
    exposures, _ = tables(replace(world, lift=0.0, repeated=0.0))
    exposures = exposures.filter(pl.col("arm") == "control")
    rows, clicks, best = [], [], []
    for row in exposures.iter_rows(named=True):
        chance = random.random(SHOWN) / 2
        score = np.exp(random.normal(size=SHOWN) / 2)
        first = random.choice(SHOWN, p=score / score.sum())
        order = [first, *(index for index in range(SHOWN) if index != first)]
        aligned = {"scores": score[order].tolist(), "shadow": chance[order].tolist() if shadow else None}
        rows.append({**row, **aligned, "propensities": [float(score[first] / score.sum())]})
        best.append(float(chance.max()))
        if random.random() < chance[first]:
            clicks.append(_click(row, 0, 1000))
    return pl.DataFrame(rows, EXPOSURES), pl.DataFrame(clicks, INTERACTIONS), float(np.mean(best))


def _people(random: np.random.Generator, units: int) -> tuple[Array, Array]:
    """Mean requests a day, from tenths to tens, and the chance of a click, 0.2 on average."""
    return random.lognormal(-0.8, 1.0, units), random.beta(4, 16, units)


def _exposure(
    random: np.random.Generator, request: str, unit: str, treated: bool, release: str, world: World
) -> dict[str, Any]:
    return {
        "request_id": request,
        "time_ms": START_MS + int(random.integers(world.days * DAY_MS)),
        "unit": unit,
        "arm": ARMS[treated],
        "how": "split",
        "split": None,
        "release": release,
        "degraded": ["rerank"] if random.random() < 0.05 else [],
        "latency_ms": float(random.lognormal(1.0, 0.5)) + world.slower * treated,
        "candidates": SHOWN,
        "items": [f"i{item}" for item in random.permutation(50)[:SHOWN]],
        "scores": [0.5] * SHOWN,
        "shadow": None,
        "propensities": None,
        "teams": None,
        "context": json.dumps({"country": "de" if random.random() < 0.5 else "at"}),
        "unshown": None,
        "unshown_scores": None,
        "unshown_shadow": None,
    }


def _clicks(random: np.random.Generator, row: dict[str, Any], chance: float) -> list[dict[str, Any]]:
    positions = np.flatnonzero(random.random(SHOWN) < chance).tolist()
    return [_click(row, position, int(random.integers(1, DAY_MS))) for position in positions]


def _click(row: dict[str, Any], position: int, after_ms: int) -> dict[str, Any]:
    return {
        "request_id": row["request_id"],
        "unit": row["unit"],
        "item": row["items"][position],
        "type": "click",
        "value": 1.0,
        "time_ms": row["time_ms"] + after_ms,
    }


def _before(random: np.random.Generator, unit: str, activity: float, taste: float) -> list[dict[str, Any]]:
    shown = SHOWN * int(random.poisson(activity * 4))
    return [
        {
            "request_id": None,
            "unit": unit,
            "item": f"p{at}",
            "type": "click" if clicked else "view",
            "value": 1.0,
            "time_ms": START_MS - int(random.integers(1, 14 * DAY_MS)),
        }
        for at, clicked in enumerate((random.random(shown) < taste).tolist())
    ]


def _shuffled(random: np.random.Generator, rows: list[dict[str, Any]], schema: pl.Schema, world: World) -> pl.DataFrame:
    again = [row for row in rows if random.random() < world.repeated]
    frame = pl.DataFrame([*rows, *again], schema)
    return frame[random.permutation(frame.height)]
