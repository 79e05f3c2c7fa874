"""The tables that an analysis starts from are checked before anything is computed."""

from __future__ import annotations

import polars as pl
import pytest

from offline.ab.inputs import EXPOSURES, INTERACTIONS, exposures_table, interactions_table
from tests.offline.ab.simulate import World, tables


def test_columns_come_in_their_order_and_type() -> None:
    exposures, interactions = tables(World(units=5))
    loose = exposures.select(reversed(exposures.columns)).with_columns(
        shadow=None, context=None, candidates=pl.col("candidates").cast(pl.UInt16), more=1
    )
    assert exposures_table(loose).schema == EXPOSURES
    assert interactions_table(interactions.with_columns(value=pl.lit(1, pl.Int32))).schema == INTERACTIONS


def test_tables_that_are_none() -> None:
    exposures, interactions = tables(World(units=5))
    with pytest.raises(ValueError, match="exposures without arm, items"):
        exposures_table(exposures.drop("arm", "items"))
    with pytest.raises(ValueError, match="exposures with nulls in unit"):
        exposures_table(exposures.with_columns(unit=pl.lit(None, pl.String)))
    with pytest.raises(ValueError, match="other types"):
        exposures_table(exposures.with_columns(items=1.5))
    with pytest.raises(ValueError, match="other types"):
        interactions_table(interactions.with_columns(time_ms=pl.lit("noon")))
