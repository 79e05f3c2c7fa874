"""The thousand experiments are judged by arrays; here, that this is what the product says of each of them."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportions_ztest

from tests.offline.ab.simulate import SHOWN, Daily
from tests.offline.ab.thousand import DAYS, EXPERIMENTS, METRICS, Thousand, look


@pytest.mark.parametrize("metric", METRICS)
def test_every_look_is_the_products(material: list[Daily], aa: Thousand, metric: str) -> None:
    for number in range(0, EXPERIMENTS, 20):
        for day in range(DAYS):
            difference = look(material[number], metric, day)
            assert aa.estimate[metric][number, day] == pytest.approx(difference.absolute)
            assert aa.variance[metric][number, day] == pytest.approx(difference.variance)
            assert tuple(aa.units[number, day]) == (difference.control_units, difference.treatment_units)
        assert aa.p[metric][number] == difference.p


def test_the_naive_test_is_statsmodels(material: list[Daily], aa: Thousand) -> None:
    for number in range(0, EXPERIMENTS, 20):
        clicks, requests = (
            material[number].arms(table.sum(axis=1)) for table in (material[number].clicks, material[number].requests)
        )
        trials = [SHOWN * arm.sum() for arm in requests]
        assert aa.naive_p[number] == pytest.approx(proportions_ztest([arm.sum() for arm in clicks], trials)[1])


def test_no_two_experiments_are_alike(aa: Thousand) -> None:
    assert len(np.unique(aa.p["ctr"])) == EXPERIMENTS
