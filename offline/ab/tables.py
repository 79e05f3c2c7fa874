"""The two tables that an analysis starts from, for one experiment."""

from __future__ import annotations

import polars as pl

EXPOSURES = pl.Schema(
    {
        "request_id": pl.String(),
        "time_ms": pl.Int64(),
        "unit": pl.String(),
        "arm": pl.String(),
        "how": pl.String(),
        "split": pl.String(),
        "release": pl.String(),
        "degraded": pl.List(pl.String()),
        "latency_ms": pl.Float64(),
        "candidates": pl.Int64(),
        "items": pl.List(pl.String()),
        "scores": pl.List(pl.Float64()),
        "shadow": pl.List(pl.Float64()),
        "propensities": pl.List(pl.Float64()),
        "teams": pl.List(pl.String()),
        "context": pl.String(),
        "unshown": pl.List(pl.String()),
        "unshown_scores": pl.List(pl.Float64()),
        "unshown_shadow": pl.List(pl.Float64()),
    }
)
"""One row per answered request, as models/contract/exposures.py has it. ``split`` is JSON: the buckets that each arm
had when the unit was split. ``items`` are those shown, position p at index p; ``scores`` and ``shadow`` are aligned
with them, ``propensities`` and ``teams`` with the first of them; ``unshown`` are the other candidates. All that not
every exposure has is null or empty there; ``context`` is JSON."""

INTERACTIONS = pl.Schema(
    {
        "request_id": pl.String(),
        "unit": pl.String(),
        "item": pl.String(),
        "type": pl.String(),
        "value": pl.Float64(),
        "time_ms": pl.Int64(),
    }
)
"""One row per interaction, of the experiment's time and of the pre-period; ``request_id`` may be null."""

_REQUIRED = ("request_id", "time_ms", "unit", "arm", "items")


def exposures_table(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with the columns and types of ``EXPOSURES``; ValueError if it cannot be brought to them, or lacks a
    value that every exposure has."""
    return _brought_to(EXPOSURES, frame, "exposures", _REQUIRED)


def interactions_table(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with the columns and types of ``INTERACTIONS``; ValueError as above."""
    return _brought_to(INTERACTIONS, frame, "interactions", ("unit", "item", "type", "time_ms"))


def _brought_to(schema: pl.Schema, frame: pl.DataFrame, name: str, required: tuple[str, ...]) -> pl.DataFrame:
    if missing := [column for column in schema if column not in frame.columns]:
        raise ValueError(f"{name} without {', '.join(missing)}")
    try:
        table = frame.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{name} of other types than expected: {error}") from error
    if empty := [column for column in required if table[column].null_count()]:
        raise ValueError(f"{name} with nulls in {', '.join(empty)}")
    return table
