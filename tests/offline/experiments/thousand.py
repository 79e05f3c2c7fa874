"""A thousand A/A experiments of two weeks, judged at every day: the material of several tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from statsmodels.stats.proportion import proportions_ztest

from offline.experiments import influence
from offline.experiments.difference import compare, cuped
from tests.offline.experiments.simulate import SHOWN, Daily, daily

Array = npt.NDArray[Any]

EXPERIMENTS, UNITS, DAYS = 1000, 600, 14
METRICS = ("ctr", "clicks_per_user")


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
    return influence.of_ratio(clicks, shown) if metric == "ctr" else clicks.astype(np.float64)


def thousand() -> Thousand:
    random = np.random.default_rng(20)
    last: dict[str, dict[str, list[float]]] = {name: {"p": [], "cuped": [], "reduction": []} for name in METRICS}
    estimate, variance = ({name: np.zeros((EXPERIMENTS, DAYS)) for name in METRICS} for _ in range(2))
    units, naive = np.zeros((EXPERIMENTS, DAYS, 2)), []
    for number in range(EXPERIMENTS):
        found = daily(random, UNITS, DAYS)
        for day in range(DAYS):
            seen = found.until(day + 1)
            units[number, day] = np.sum(~seen.treated), np.sum(seen.treated)
            for name in METRICS:
                one, other = _both(name, seen)
                estimate[name][number, day] = one.mean() - other.mean()
                variance[name][number, day] = one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)
        end = found.until(DAYS)
        for name in METRICS:
            one, other = _both(name, end)
            less = cuped(one, other, *end.arms(end.history))
            last[name]["p"].append(compare(one, other).p)
            last[name]["cuped"].append(compare(less.treatment, less.control).p)
            last[name]["reduction"].append(less.reduction)
        clicks, requests = (end.arms(each[:, 0]) for each in (end.clicks, end.requests))
        naive.append(proportions_ztest([each.sum() for each in clicks], [SHOWN * each.sum() for each in requests])[1])
    p, cuped_p, reduction = (
        {name: np.array(last[name][kind]) for name in METRICS} for kind in ("p", "cuped", "reduction")
    )
    return Thousand(p, cuped_p, reduction, np.array(naive), estimate, variance, units)


def _both(metric: str, seen: Daily) -> tuple[Array, Array]:
    clicks, requests = seen.arms(seen.clicks[:, 0]), seen.arms(seen.requests[:, 0])
    return (values(metric, clicks[0], SHOWN * requests[0]), values(metric, clicks[1], SHOWN * requests[1]))
