"""The analysis follows the file that the service splits by."""

from __future__ import annotations

import pytest

from models.contract.experiments import parse_experiments
from offline.ab.planned import settings_of
from offline.data.catalogue import DataError
from tests.contract.experiments import TWO_LAYERS

TIMED = TWO_LAYERS.replace('seed = "another"', "start = 2026-11-01T00:00:00Z")


def test_arms_weights_and_start_are_those_of_the_file() -> None:
    file = parse_experiments(TIMED.encode())
    first = settings_of(file, "knowledge")
    assert (first.control, first.weights, first.start_ms) == ("plain", {"plain": 30.0, "full": 70.0}, None)
    second = settings_of(file, "rerank", window_hours=0.5, clicks=["click"], least_value=4.0, planned_units=77)
    assert (second.control, second.start_ms, second.window_ms) == ("none", 1_793_491_200_000, 1_800_000)
    assert second.weights["never"] == 0.0
    assert (second.clicks.types, second.clicks.least_value, second.planned_units) == (frozenset({"click"}), 4.0, 77)


def test_an_experiment_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="no experiment 'other'; it has knowledge, rerank"):
        settings_of(parse_experiments(TIMED.encode()), "other")
