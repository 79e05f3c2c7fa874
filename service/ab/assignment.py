"""Which arms a unit is in: a pure function of unit, time, sticky arms and the experiments file. No state and no I/O.

Hash, ranges and sticky buckets are GrowthBook's, so that assignments can be checked against, and moved to,
any of its implementations. All that does not depend on the unit is computed once: a request pays for little but hashes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from models.contract.experiments import Arm, Experiment, ExperimentsFile, Layer
from models.contract.exposures import ArmTaken, How
from models.contract.schema import FeatureSchema
from service.ab.hashing import bucket_ranges, buckets_between, fnv1a32, layer_seed, second_hash
from service.errors import InvalidRequest
from service.ranking.types import ArmPlan, ArmSettings, SideArm

_PLANS = 4096
_NOTHING: Mapping[str, str] = {}


class FileExperiments:
    """The port ``Experiments`` over an experiments file."""

    def __init__(self, file: ExperimentsFile) -> None:
        self.file = file
        self._layers = {layer.name: _LayerSplit(layer) for layer in file.layers}
        self._holdout = None if file.holdout is None else (fnv1a32(file.holdout.seed), file.holdout.share)
        self._plan = lru_cache(_PLANS)(_plan)

    @property
    def asks_for_reranking(self) -> bool:
        """Whether any arm wants the head of the list reranked."""
        return any(arm.rerank_top_n for _, _, arm in self.file.arms())

    @property
    def keeps_arms(self) -> bool:
        return any(layer.sticky for layer in self._layers.values())

    @property
    def releases(self) -> Sequence[str]:
        return self.file.releases

    def without_effect(self, schema: FeatureSchema) -> list[str]:
        """Boosts that no item of ``schema`` can get, each in words."""
        fields = {field.name: field for field in schema.item_fields}
        problems = []
        for _, experiment, arm in self.file.arms():
            for boost in arm.boosts or ():
                field = fields.get(boost.field)
                if field is None or not any(field.encode(boost.value)):
                    problems.append(f"{experiment.name}/{arm.name}: no item has {boost.field} = {boost.value!r}")
        return problems

    def assign(
        self, unit: str, forced: Mapping[str, str], now: float, sticky_arms: Mapping[str, str] | None = None
    ) -> ArmPlan:
        """See the port. Nobody (an empty unit) gets the control of every layer, and is not exposed."""
        for name in forced:
            if name not in self._layers:
                raise InvalidRequest(f"there is no layer {name!r}", field=f"arms.{name}")
        missing = not unit
        held_out = not missing and self._holdout is not None and second_hash(self._holdout[0], unit) < self._holdout[1]
        choices: list[_Choice] = []
        for name, layer in self._layers.items():
            if name in forced:
                choice: _Choice | None = layer.forced(forced[name])
            elif missing:
                choice = layer.control(now)
            else:
                choice = layer.chosen(unit, held_out, now, sticky_arms)
            if choice is not None:
                choices.append(choice)
        return self._plan(tuple(choices), missing, held_out)


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """One arm, taken in one way. Compared by identity: there is one per arm and way."""

    split: _Split
    arm: Arm
    taken: ArmTaken


class _Split:
    """An experiment with what its arms' ranges come to."""

    def __init__(self, layer: str, experiment: Experiment) -> None:
        self.experiment = experiment
        self.sticky = experiment.sticky_days > 0
        self.bucket = f"{experiment.name}__{experiment.bucket_version}"  # under which a unit's arm is stored
        self.slots = experiment.slots
        self._runs = (
            -math.inf if experiment.start is None else experiment.start.timestamp(),
            math.inf if experiment.end is None else experiment.end.timestamp(),
        )
        self._seed = fnv1a32(experiment.name if experiment.seed is None else experiment.seed)
        ranges = bucket_ranges(experiment.coverage, [arm.weight for arm in experiment.arms])
        self._ranges = [(start, end, arm.name) for (start, end), arm in zip(ranges, experiment.arms, strict=True)]
        self.buckets = {name: buckets_between(start, end) for start, end, name in self._ranges}
        self.choices = {
            how: {arm.name: _Choice(self, arm, self._taken(layer, arm.name, how)) for arm in experiment.arms}
            for how in get_args(How)
        }

    def _taken(self, layer: str, arm: str, how: How) -> ArmTaken:
        split = self.buckets if how == "split" else {}
        return ArmTaken(layer=layer, experiment=self.experiment.name, arm=arm, how=how, split=split)

    def runs(self, now: float) -> bool:
        return self._runs[0] <= now < self._runs[1]

    def arm(self, unit: str) -> str | None:
        """The arm whose range holds the unit's hash; None for a unit that is not covered."""
        at = second_hash(self._seed, unit)
        for start, end, arm in self._ranges:
            if start <= at < end:
                return arm
        return None

    def sticky_arm(self, sticky_arms: Mapping[str, str]) -> str | None:
        """The arm that the unit had before, if there is one and it still exists."""
        arm = sticky_arms.get(self.bucket) if self.sticky and not self.blocks(sticky_arms) else None
        return arm if arm in self.choices["sticky"] else None

    def blocks(self, sticky_arms: Mapping[str, str]) -> bool:
        """Whether the unit was in a version that is too old to be in this one."""
        oldest = self.experiment.min_bucket_version
        if not oldest:
            return False
        versions = (bucket.rpartition("__") for bucket in sticky_arms)
        return any(
            name == self.experiment.name and version.isdecimal() and int(version) < oldest
            for name, _, version in versions
        )


class _LayerSplit:
    """A layer with what does not depend on the unit, so that a unit pays only for what its layer uses."""

    def __init__(self, layer: Layer) -> None:
        self.splits = [_Split(layer.name, experiment) for experiment in layer.experiments]
        self.sticky = any(split.sticky for split in self.splits)
        self._name = layer.name
        self._always = all(split.experiment.start is split.experiment.end is None for split in self.splits)
        self._names_units = any(split.experiment.forced for split in self.splits)
        self._slotted = any(split.slots != (0.0, 1.0) for split in self.splits)
        self._seed = fnv1a32(layer_seed(layer.name))

    def forced(self, arm: str) -> _Choice:
        """The arm that a request names. InvalidRequest if there is none of that name."""
        for split in self.splits:
            choice = split.choices["forced"].get(arm)
            if choice is not None:
                return choice
        raise InvalidRequest(f"layer {self._name!r} has no arm {arm!r}", field=f"arms.{self._name}")

    def control(self, now: float) -> _Choice | None:
        """The control, which a missing unit gets."""
        running = self._running(now)
        return next(iter(running[0].choices["missing"].values())) if running else None

    def chosen(self, unit: str, held_out: bool, now: float, sticky_arms: Mapping[str, str] | None) -> _Choice | None:
        """GrowthBook's order: forced by name, then the sticky arm, then slots, then coverage."""
        running = self._running(now)
        if self._names_units:
            for split in running:
                arm = split.experiment.forced.get(unit)
                if arm is not None:
                    return split.choices["forced"][arm]
        if held_out:
            return None
        if self.sticky and sticky_arms:
            for split in running:
                arm = split.sticky_arm(sticky_arms)
                if arm is not None:
                    return split.choices["sticky"][arm]
        slot = second_hash(self._seed, unit) if self._slotted else 0.0
        for split in running:
            if split.slots[0] <= slot < split.slots[1]:
                arm = split.arm(unit)
                if arm is None or split.blocks(sticky_arms or _NOTHING):
                    return None
                return split.choices["unread" if split.sticky and sticky_arms is None else "split"][arm]
        return None

    def _running(self, now: float) -> list[_Split]:
        return self.splits if self._always else [split for split in self.splits if split.runs(now)]


def _plan(choices: tuple[_Choice, ...], missing: bool, held_out: bool) -> ArmPlan:
    def side(choice: _Choice, name: str) -> SideArm:
        """The settings of all layers, with another arm in one of them."""
        arm = choice.split.experiment.arm(name)
        assert arm is not None, "checked when the file was read"
        return SideArm(name, ArmSettings.of(arm if other is choice else other.arm for other in choices))

    pairs = [(choice, choice.arm.interleave) for choice in choices if choice.arm.interleave is not None]
    return ArmPlan(
        arms=tuple(choice.taken for choice in choices),
        settings=ArmSettings.of(choice.arm for choice in choices),
        teams=next(((side(choice, first), side(choice, second)) for choice, (first, second) in pairs), None),
        shadow=next((side(choice, choice.arm.shadow) for choice in choices if choice.arm.shadow is not None), None),
        keep={
            choice.split.bucket: (choice.arm.name, choice.split.experiment.sticky_days)
            for choice in choices
            if choice.split.sticky and choice.taken.how == "split"
        },
        unit_missing=missing,
        held_out=held_out,
        logs_all=any(choice.split.experiment.log == "all" for choice in choices),
    )
