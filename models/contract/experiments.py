"""The experiments file: layers, the experiments that share each, and their arms. An arm is data, never code.

Example::

    [holdout]                             # these units are in no experiment
    share = 0.02

    [[layers]]
    name = "ranking"

    [[layers.experiments]]
    name = "knowledge-2026-11"
    slots = [0.0, 0.5]                    # of the layer's units; another experiment may have the rest
    coverage = 0.1                        # of those: raise it to ramp up, nobody moves from arm to arm
    start = 2026-11-01T00:00:00Z
    forced = { "tester-1" = "knowledge" }

    [[layers.experiments.arms]]           # the first arm is the control
    name = "plain"
    weight = 0.5
    knowledge = "off"

    [[layers.experiments.arms]]
    name = "knowledge"
    weight = 0.5
    shadow = "plain"
"""

from __future__ import annotations

import tomllib
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.contract.unknown_keys import problem_lines

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Share = Annotated[float, Field(ge=0, le=1)]

SETTINGS = ("release", "knowledge", "rerank_top_n", "rerank_weight", "explore", "exclude_seen", "boosts", "interleave")
"""Names of all that an arm can set."""

_PAIRS = (
    frozenset({"explore", "interleave"}),  # teams of a drawn order could not be told apart
    frozenset({"explore", "rerank_top_n"}),  # what is reranked would be drawn by score
    frozenset({"rerank_top_n", "rerank_weight"}),
)
_TOGETHER = (*(frozenset({setting}) for setting in SETTINGS if not any(setting in pair for pair in _PAIRS)), *_PAIRS)
"""Settings of which one layer owns all: two layers that set them would overrule each other."""


class ExperimentsError(ValueError):
    """An experiments file that cannot take effect; the message says where. It stops the start-up."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Epsilon(_Frozen):
    """Each of the first ``positions`` is, with this probability, any of the items that are left."""

    kind: Literal["epsilon"]
    epsilon: Annotated[float, Field(gt=0, le=1)]
    positions: Annotated[int, Field(ge=1, le=200)] = 10


class PlackettLuce(_Frozen):
    """The first ``positions`` are drawn one after the other by softmax of logit / ``temperature``."""

    kind: Literal["plackett-luce"]
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    positions: Annotated[int, Field(ge=1, le=200)] = 10


class Boost(_Frozen):
    """``add`` to the log-odds of the items that have ``value`` in the schema's field ``field``."""

    field: Name
    value: str
    add: Annotated[float, Field(ge=-20, le=20)]


class Arm(_Frozen):
    """Settings of one arm; an absent one may be set by an arm of another layer.

    weight        share of the experiment; relative to the other arms'
    release       id of a published release that answers instead of the live one: another model, other knowledge
    knowledge     "off": the same model without anybody's knowledge
    rerank_top_n  how much of the head the reranker sees
    rerank_weight  of its verdict against the model's scores, from 0 to 1; the reranker's own if it is not set
    explore       how the order is drawn, with propensities
    exclude_seen  items of the user's history come last
    boosts        added to log-odds before ordering
    interleave    the names of two arms of the experiment whose orders are merged by team draft
    shadow        an arm of the experiment whose scores of the same candidates are logged
    """

    name: Name
    weight: Annotated[float, Field(ge=0)]
    release: Name | None = None
    knowledge: Literal["on", "off"] | None = None
    rerank_top_n: Annotated[int, Field(ge=0, le=200)] | None = None
    rerank_weight: Share | None = None
    explore: Annotated[Epsilon | PlackettLuce, Field(discriminator="kind")] | None = None
    exclude_seen: bool | None = None
    boosts: Annotated[tuple[Boost, ...], Field(strict=False)] | None = None
    interleave: Annotated[tuple[Name, Name], Field(strict=False)] | None = None
    shadow: Name | None = None


class Experiment(_Frozen):
    """Arms in the order of their ranges; the first is the control.

    seed                changes who is in which arm; the name if absent
    slots               [from, to) of the layer's units, by a hash of their own
    coverage            of the units in ``slots``; the others are not in the experiment
    start, end          outside them nobody is in it
    forced              arms of units that are named; they are not analysed
    sticky_days         how long a unit keeps its arm although weights or coverage change; 0: it does not
    bucket_version      raise it to forget all sticky arms
    min_bucket_version  units that were in an older version are not in the experiment
    log                 "all": exposures name also the candidates that were not shown
    """

    name: Name
    seed: str | None = None
    slots: Annotated[tuple[Share, Share], Field(strict=False)] = (0.0, 1.0)
    coverage: Share = 1.0
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    forced: dict[Annotated[str, Field(min_length=1)], Name] = {}
    sticky_days: Annotated[float, Field(ge=0, le=3650)] = 0.0
    bucket_version: Annotated[int, Field(ge=0)] = 0
    min_bucket_version: Annotated[int, Field(ge=0)] = 0
    log: Literal["shown", "all"] = "shown"
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        problem = _problem(self)
        if problem:
            raise ValueError(f"experiment {self.name!r} {problem}")
        return self

    def arm(self, name: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.name == name), None)

    def runs(self, now: datetime) -> bool:
        return (self.start is None or now >= self.start) and (self.end is None or now < self.end)


def _problem(experiment: Experiment) -> str:
    names = {arm.name for arm in experiment.arms}
    if len(names) != len(experiment.arms):
        return "repeats an arm"
    if sum(arm.weight for arm in experiment.arms) <= 0:
        return "gives no arm any weight"
    if experiment.slots[0] >= experiment.slots[1]:
        return f"has no units in slots {list(experiment.slots)}"
    if experiment.start and experiment.end and experiment.start >= experiment.end:
        return "ends before it starts"
    if experiment.min_bucket_version > experiment.bucket_version:
        return "excludes its own bucket_version"
    for arm in experiment.arms:
        others = names - {arm.name}
        for what, named in (("interleaves", set(arm.interleave or ())), ("shadows", {arm.shadow} - {None})):
            if dangling := named - others:
                return f"has an arm {arm.name!r} that {what} {', '.join(sorted(map(str, dangling)))}, not another arm"
        if arm.interleave and arm.interleave[0] == arm.interleave[1]:
            return f"has an arm {arm.name!r} that interleaves an arm with itself"
        teams = [team for team in experiment.arms if team.name in (arm.interleave or ())]
        if arm.interleave and (arm.explore or any(team.explore or team.interleave for team in teams)):
            return f"has an arm {arm.name!r} that both interleaves and draws: its teams could not be told apart"
        if isinstance(arm.explore, PlackettLuce) and arm.rerank_top_n:
            return f"has an arm {arm.name!r} that reranks what it then draws by score"
    if dangling := set(experiment.forced.values()) - names:
        return f"forces units into {', '.join(sorted(dangling))}, which are not its arms"
    return ""


class Layer(_Frozen):
    """Layers split independently of each other; a unit is in at most one experiment of a layer."""

    name: Name
    experiments: Annotated[tuple[Experiment, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _experiments_fit(self) -> Layer:
        for first, second in pairwise(sorted(self.experiments, key=lambda each: each.slots)):
            if second.slots[0] < first.slots[1]:
                raise ValueError(f"experiments {first.name!r} and {second.name!r} of layer {self.name!r} share slots")
        return self


class Holdout(_Frozen):
    """Units that are in no experiment, to compare everything that was launched with."""

    share: Share
    seed: str = "holdout"


class ExperimentsFile(_Frozen):
    holdout: Holdout | None = None
    layers: Annotated[tuple[Layer, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _layers_fit(self) -> ExperimentsFile:
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("a layer is repeated")
        experiments = [experiment.name for layer in self.layers for experiment in layer.experiments]
        if len(set(experiments)) != len(experiments):
            raise ValueError("an experiment is repeated")
        for settings in _TOGETHER:
            owners = [layer.name for layer in self.layers if settings & _set_by(layer)]
            if len(owners) > 1:
                raise ValueError(f"{' or '.join(sorted(settings))} is set by more than one layer: {', '.join(owners)}")
        self._seeds_differ()
        return self

    def _seeds_differ(self) -> None:
        """Equal seeds split alike: layers, and the holdout, would not be independent."""
        owners: dict[str, str] = {} if self.holdout is None else {self.holdout.seed: "the holdout"}
        for layer in self.layers:
            for experiment in layer.experiments:
                seed = experiment.name if experiment.seed is None else experiment.seed
                if owners.setdefault(seed, layer.name) != layer.name:
                    raise ValueError(
                        f"experiment {experiment.name!r} of layer {layer.name!r} has the seed of {owners[seed]}"
                    )

    @property
    def releases(self) -> tuple[str, ...]:
        """Releases that arms pin."""
        return tuple(sorted({arm.release for _, _, arm in self.arms() if arm.release is not None}))

    def arms(self) -> list[tuple[Layer, Experiment, Arm]]:
        return [
            (layer, experiment, arm)
            for layer in self.layers
            for experiment in layer.experiments
            for arm in experiment.arms
        ]


def _set_by(layer: Layer) -> set[str]:
    arms = [arm for experiment in layer.experiments for arm in experiment.arms]
    return {setting for setting in SETTINGS if any(getattr(arm, setting) is not None for arm in arms)}


DEFAULT = ExperimentsFile(layers=())
"""Everybody gets the full model."""


def read_experiments(path: Path | None) -> ExperimentsFile:
    """The experiments of a file, or the default without one. ExperimentsError if it cannot be read or is not valid."""
    if path is None:
        return DEFAULT
    try:
        return parse_experiments(path.read_bytes())
    except (OSError, ExperimentsError) as error:
        raise ExperimentsError(f"experiments file {path}: {error}") from error


def parse_experiments(raw: bytes) -> ExperimentsFile:
    """The experiments of a file's bytes. ExperimentsError if they are not valid."""
    try:
        return ExperimentsFile.model_validate(tomllib.loads(raw.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ExperimentsError(str(error)) from error
    except ValidationError as error:
        raise ExperimentsError("; ".join(problem_lines(ExperimentsFile, error))) from error
