"""Settings of the analysis of one experiment, also from the file that the service splits by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from models.contract.experiments import ExperimentsFile
from models.contract.schema import FrozenConfig
from offline.data.catalogue import DataError

HOUR_MS, DAY_MS = 3_600_000, 86_400_000

ANALYSED = ("split", "sticky")
"""Of the ways into an arm, those that are random: see ``How`` of models/contract/exposures.py."""


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
    start_ms          when the experiment started; its first exposure if None. What is older is the pre-period
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
