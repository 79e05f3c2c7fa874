"""Inputs of the analysis of one experiment: its two tables, and its settings, also from the file that the service
splits by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, Field, model_validator

from models.contract.experiments import ExperimentsFile
from models.contract.schema import FrozenConfig
from offline.data.catalogue import DataError

HOUR_MS, DAY_MS = 3_600_000, 86_400_000

ANALYSED = ("split", "sticky")
"""Of the ways into an arm, those that are random: see ``How`` of models/contract/exposures.py."""


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

_TABLES = {
    "exposures": (EXPOSURES, ("request_id", "time_ms", "unit", "arm", "items")),
    "interactions": (INTERACTIONS, ("unit", "item", "type", "time_ms")),
}
"""Schemas, and the columns that are never null."""


class ClickRule(BaseModel):
    """The rule for clicks: interactions of one of ``types`` (of any, if empty) with a value of ``least_value`` or
    more (with any, if None)."""

    model_config = FrozenConfig

    types: frozenset[str] = frozenset()
    least_value: float | None = None


class AnalysisSettings(BaseModel):
    """Settings of the analysis of one experiment.

    control           the arm that all others are compared with
    weights           arm -> configured share of the split, in any unit. An arm of weight 0 gets no new units, and is
                      left out of the sample ratio check
    clicks            which interactions are clicks
    window_ms         a click counts if it comes at most so long after its exposure
    without_request   whether a click that names no request counts for the unit's latest exposure of the item
    alpha             level of tests; intervals cover 1 - alpha
    start_ms          when the experiment started; its first exposure if None. Older events are the pre-period
    pre_period_days   how much before the start the CUPED covariates look at; everything if None
    breakdowns        dimensions of the sample ratio check: "release", "day" or "context.KEY"
    planned_units     units of all arms at which the always-valid intervals are tightest. It has to be chosen
                      before the data are seen; they are valid whatever it is
    interim_analyses  how many the history of effects has, cumulative and equally spaced in time; "looks" in files
    clip              importance weights above this become this; none if None
    listed            at most so many offending units are listed by name
    """

    model_config = FrozenConfig

    control: str
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    clicks: ClickRule = ClickRule()
    window_ms: Annotated[int, Field(gt=0)] = DAY_MS
    without_request: bool = False
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    start_ms: int | None = None
    pre_period_days: Annotated[float, Field(gt=0)] | None = 14.0
    breakdowns: tuple[Annotated[str, Field(pattern=r"^(release|day|context\..+)$")], ...] = ("release", "day")
    planned_units: Annotated[int, Field(ge=2)] = 10_000
    interim_analyses: Annotated[int, Field(ge=1, le=1000, alias="looks")] = 14
    clip: Annotated[float, Field(gt=0)] | None = None
    listed: Annotated[int, Field(ge=0)] = 20

    @model_validator(mode="after")
    def _control_is_an_arm(self) -> AnalysisSettings:
        if self.control not in self.weights:
            raise ValueError(f"control {self.control!r} is not among the arms: {', '.join(sorted(self.weights))}")
        return self


def settings_of(
    file: ExperimentsFile,
    name: str,
    window_hours: float = 24.0,
    clicks: Iterable[str] = (),
    least_value: float | None = None,
    planned_units: int = 10_000,
) -> AnalysisSettings:
    """Settings of the experiment ``name``; its first arm is the control. DataError if the file has no such one."""
    known = {experiment.name: experiment for layer in file.layers for experiment in layer.experiments}
    if name not in known:
        there = ", ".join(sorted(known)) or "none at all"
        raise DataError(f"the experiments file has no experiment {name!r}; it has {there}")
    experiment = known[name]
    return AnalysisSettings(
        control=experiment.arms[0].name,
        weights={arm.name: arm.weight for arm in experiment.arms},
        clicks=ClickRule(types=frozenset(clicks), least_value=least_value),
        window_ms=round(window_hours * HOUR_MS),
        start_ms=None if experiment.start is None else round(experiment.start.timestamp() * 1000),
        planned_units=planned_units,
    )


def check_table(name: Literal["exposures", "interactions"], frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with the columns and types of ``EXPOSURES`` or ``INTERACTIONS``; ValueError if it cannot be brought to
    them, or lacks a value that every row has."""
    schema, required = _TABLES[name]
    if missing := [column for column in schema if column not in frame.columns]:
        raise ValueError(f"{name} without {', '.join(missing)}")
    try:
        table = frame.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{name} of other types than expected: {error}") from error
    if empty := [column for column in required if table[column].null_count()]:
        raise ValueError(f"{name} with nulls in {', '.join(empty)}")
    return table
