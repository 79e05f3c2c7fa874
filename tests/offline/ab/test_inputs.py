"""Inputs of an analysis are checked before anything is computed; its settings follow the file that the service splits
by."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from models.contract.experiments import parse_experiments
from offline.ab.inputs import EXPOSURES, INTERACTIONS, AnalysisSettings, check_table, settings_of
from offline.data.catalogue import DataError
from tests.contract.experiments import TWO_LAYERS
from tests.offline.ab.simulate import World, tables

TIMED = TWO_LAYERS.replace('seed = "another"', "start = 2026-11-01T00:00:00Z")
ARMS: dict[str, Any] = {"control": "off", "weights": {"off": 1.0, "on": 1.0}}


def test_what_is_left_out_has_a_default() -> None:
    settings = AnalysisSettings(**ARMS)
    assert (settings.alpha, settings.breakdowns, settings.start_ms) == (0.05, ("release", "day"), None)
    assert AnalysisSettings(**settings.model_dump(mode="json", by_alias=True)) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"control": "none"},
        {"weights": {"off": -1.0}},
        {"weights": {"off": float("inf")}},
        {"alpha": 0.6},
        {"breakdowns": ("colour",)},
        {"window_ms": 0},
        {"clip": 0.0},
        {"clicks": {"kinds": ["click"]}},
        {"unknown": 1},
    ],
)
def test_settings_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AnalysisSettings(**{**ARMS, **wrong})


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


def test_columns_come_in_their_order_and_type() -> None:
    exposures, interactions = tables(World(units=5))
    loose = exposures.select(reversed(exposures.columns)).with_columns(
        shadow=None, context=None, candidates=pl.col("candidates").cast(pl.UInt16), more=1
    )
    assert check_table("exposures", loose).schema == EXPOSURES
    assert check_table("interactions", interactions.with_columns(value=pl.lit(1, pl.Int32))).schema == INTERACTIONS


def test_tables_that_are_none() -> None:
    exposures, interactions = tables(World(units=5))
    with pytest.raises(ValueError, match="exposures without arm, items"):
        check_table("exposures", exposures.drop("arm", "items"))
    with pytest.raises(ValueError, match="exposures with nulls in unit"):
        check_table("exposures", exposures.with_columns(unit=pl.lit(None, pl.String)))
    with pytest.raises(ValueError, match="other types"):
        check_table("exposures", exposures.with_columns(items=1.5))
    with pytest.raises(ValueError, match="other types"):
        check_table("interactions", interactions.with_columns(time_ms=pl.lit("noon")))
