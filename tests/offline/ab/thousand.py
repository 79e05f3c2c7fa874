"""A thousand A/A experiments of two weeks, judged at every day: the material of several tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array
from offline.ab.difference import Difference, compare, cuped
from offline.ab.metrics import of_ratio
from tests.offline.ab.simulate import SHOWN, Daily, daily

EXPERIMENTS, UNITS, DAYS = 1000, 600, 14
METRICS = ("ctr", "clicks_per_user")
SEED = 20


@dataclass(frozen=True, slots=True)
class Thousand:
    """``p`` and ``cuped_p`` of each metric [experiments] after all days, ``reduction`` by CUPED, ``naive_p`` of a test
    that takes shown items for independent. Of each metric and day: ``estimate`` and ``variance`` [experiments, days] of
    the difference, and the ``units`` [experiments, days, 2] of control and treatment."""

    p: dict[str, Array]
    cuped_p: dict[str, Array]
    reduction: dict[str, Array]
    naive_p: Array
    estimate: dict[str, Array]
    variance: dict[str, Array]
    units: Array


def values(metric: str, clicks: Array, shown: Array) -> Array:
    """Of one arm."""
    return of_ratio(clicks, shown) if metric == "ctr" else clicks.astype(np.float64)


def experiments() -> list[Daily]:
    """The thousand, the same in every run."""
    random = np.random.default_rng(SEED)
    return [daily(random, UNITS, DAYS) for _ in range(EXPERIMENTS)]


def thousand(material: list[Daily]) -> Thousand:
    """The last day by the product's own functions, all days at once by ``all_looks``."""
    estimate, variance, units = all_looks(material)
    p, cuped_p, reduction = ({name: np.zeros(len(material)) for name in METRICS} for _ in range(3))
    for number, experiment in enumerate(material):
        end = experiment.until(DAYS)
        for name in METRICS:
            treatment, control = _both(name, end)
            less = cuped(treatment, control, *end.arms(end.history))
            p[name][number] = compare(treatment, control).p
            cuped_p[name][number] = compare(less.treatment, less.control).p
            reduction[name][number] = less.reduction
    return Thousand(p, cuped_p, reduction, naive_p(material), estimate, variance, units)


def all_looks(material: list[Daily]) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """``estimate``, ``variance`` and ``units`` of ``Thousand``, of all experiments and days in one go: what ``look``
    says of each (tests/offline/ab/test_thousand.py). Units that were not seen yet add nothing to the sums."""
    treated = np.array([experiment.treated for experiment in material])
    members = np.stack([~treated, treated], axis=2).astype(np.float64)  # [experiments, units, arms]
    requests = np.cumsum([experiment.requests for experiment in material], axis=2).transpose(0, 2, 1)
    clicks = np.cumsum([experiment.clicks for experiment in material], axis=2, dtype=np.float64).transpose(0, 2, 1)
    shown = SHOWN * requests.astype(np.float64)
    units = (requests > 0) @ members  # this and all that follows: [experiments, days, arms]
    clicked, mean_shown = (clicks @ members) / units, (shown @ members) / units
    squares = (clicks**2) @ members
    rate = clicked / mean_shown
    distances = squares - 2 * rate * ((clicks * shown) @ members) + rate**2 * ((shown**2) @ members)
    means = {"ctr": rate, "clicks_per_user": clicked}
    squared = {"ctr": distances / mean_shown**2, "clicks_per_user": squares - units * clicked**2}
    estimate = {name: mean[..., 1] - mean[..., 0] for name, mean in means.items()}
    variance = {name: (sums / (units - 1) / units).sum(axis=2) for name, sums in squared.items()}
    return estimate, variance, units


def look(experiment: Daily, metric: str, day: int) -> Difference:
    """The difference of an experiment after day ``day``, from 0, by the product's own function."""
    return compare(*_both(metric, experiment.until(day + 1)))


def naive_p(material: list[Daily]) -> Array:
    """p [experiments] of the z-test of two proportions (pooled), every shown item being one trial."""
    treated = np.array([experiment.treated for experiment in material])
    clicks = np.array([experiment.clicks.sum(axis=1) for experiment in material])
    shown = SHOWN * np.array([experiment.requests.sum(axis=1) for experiment in material])
    clicked, trials = (
        np.stack([(sums * members).sum(axis=1) for members in (treated, ~treated)]) for sums in (clicks, shown)
    )
    pooled = clicked.sum(axis=0) / trials.sum(axis=0)
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / trials).sum(axis=0))
    return np.asarray(2 * norm.sf(np.abs(np.diff(clicked / trials, axis=0)[0]) / deviation))


def _both(metric: str, seen: Daily) -> tuple[Array, Array]:
    clicks, requests = seen.arms(seen.clicks[:, 0]), seen.arms(seen.requests[:, 0])
    return (values(metric, clicks[0], SHOWN * requests[0]), values(metric, clicks[1], SHOWN * requests[1]))
