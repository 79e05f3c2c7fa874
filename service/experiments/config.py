"""The experiments file: layers, one experiment each, and its arms. An arm is data, never code.

Example::

    [[layers]]
    name = "ranking"

    [layers.experiment]
    name = "knowledge-2026-10"

    [[layers.experiment.arms]]        # the first arm is the control
    name = "plain"
    weight = 50
    knowledge = "off"

    [[layers.experiment.arms]]
    name = "knowledge"
    weight = 50
    rerank_top_n = 20
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class ExperimentsError(ValueError):
    """An experiments file that cannot take effect; the message says where. It stops the start-up."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Arm(_Frozen):
    """One arm. ``weight`` is relative to the other arms'. What an arm does not set, another layer may set."""

    name: Name
    weight: Annotated[float, Field(ge=0)]
    knowledge: Literal["on", "off"] | None = None
    rerank_top_n: Annotated[int, Field(ge=0, le=200)] | None = None


class Experiment(_Frozen):
    """Arms in the order of their ranges; the first is the control. ``seed`` changes who is in which arm."""

    name: Name
    seed: str | None = None
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _arms_fit(self) -> Experiment:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"experiment {self.name!r} repeats an arm")
        if sum(arm.weight for arm in self.arms) <= 0:
            raise ValueError(f"experiment {self.name!r} gives no arm any weight")
        return self


class Layer(_Frozen):
    """Layers split independently of each other; a unit is in one arm of every layer."""

    name: Name
    experiment: Experiment


class ExperimentsFile(_Frozen):
    layers: Annotated[tuple[Layer, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _layers_fit(self) -> ExperimentsFile:
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("a layer is repeated")
        for setting in ("knowledge", "rerank_top_n"):
            owners = [
                layer.name
                for layer in self.layers
                if any(getattr(arm, setting) is not None for arm in layer.experiment.arms)
            ]
            if len(owners) > 1:
                raise ValueError(f"{setting} is set by more than one layer: {', '.join(owners)}")
        return self


DEFAULT = ExperimentsFile(
    layers=(
        Layer(
            name="ranking",
            experiment=Experiment(name="default", arms=(Arm(name="knowledge", weight=1.0, knowledge="on"),)),
        ),
    )
)
"""Everybody gets the full model."""


def read_experiments(path: Path | None) -> ExperimentsFile:
    """The experiments of a file, or the default without one. ExperimentsError if it cannot be read or is not valid."""
    if path is None:
        return DEFAULT
    try:
        return ExperimentsFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentsError(f"experiments file {path}: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ExperimentsError(f"experiments file {path}: {'; '.join(lines)}") from error
