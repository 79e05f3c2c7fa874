"""Which arm a unit is in: a pure function of the unit and the experiments file, no state and no I/O.

The hash is GrowthBook's version 2, over code points as in its Python SDK, so that assignments can be checked
against, and moved to, any of its implementations.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.errors import InvalidRequest
from service.experiments.config import Arm, Experiment, ExperimentsFile, Layer
from service.ranking.types import ArmChoice, Plan

MISSING_UNITS = frozenset({"null", "undefined", "None"})
"""What broken callers send instead of a user id. They would all fall into one arm and skew it."""


def fnv1a32(text: str) -> int:
    """32-bit FNV-1a over the code points of ``text``."""
    value = 0x811C9DC5
    for character in text:
        value = ((value ^ ord(character)) * 0x01000193) & 0xFFFFFFFF
    return value


def unit_hash(seed: str, unit: str) -> float:
    """A number in [0, 1) in steps of 0.0001: GrowthBook's ``hash(seed, value, version=2)``."""
    return fnv1a32(str(fnv1a32(seed + unit))) % 10000 / 10000


class FileExperiments:
    """The port ``Experiments`` over an experiments file."""

    def __init__(self, file: ExperimentsFile) -> None:
        self._layers = {layer.name: layer for layer in file.layers}

    @property
    def asks_for_reranking(self) -> bool:
        """Whether any arm wants the head of the list reranked."""
        return any(arm.rerank_top_n for layer in self._layers.values() for arm in layer.experiment.arms)

    def assign(self, unit: str, forced: Mapping[str, str]) -> Plan:
        """See the port. A missing unit gets the control of every layer."""
        for name in forced:
            if name not in self._layers:
                raise InvalidRequest(f"there is no layer {name!r}", field=f"arms.{name}")
        missing = unit in MISSING_UNITS or not unit.strip()
        choices: list[ArmChoice] = []
        knowledge, rerank_top_n = True, 0
        for layer in self._layers.values():
            arm = _arm(layer, unit, missing, forced.get(layer.name))
            choices.append(ArmChoice(layer.name, layer.experiment.name, arm.name))
            if arm.knowledge is not None:
                knowledge = arm.knowledge == "on"
            if arm.rerank_top_n is not None:
                rerank_top_n = arm.rerank_top_n
        return Plan(tuple(choices), knowledge, rerank_top_n, missing)


def _arm(layer: Layer, unit: str, missing: bool, forced: str | None) -> Arm:
    arms = layer.experiment.arms
    if forced is not None:
        chosen = next((arm for arm in arms if arm.name == forced), None)
        if chosen is None:
            raise InvalidRequest(f"layer {layer.name!r} has no arm {forced!r}", field=f"arms.{layer.name}")
        return chosen
    return arms[0] if missing else _split(layer.experiment, unit)


def _split(experiment: Experiment, unit: str) -> Arm:
    """The arm whose range holds the unit's hash; ranges are cumulative in file order."""
    seed = experiment.seed if experiment.seed is not None else experiment.name
    at = unit_hash(seed, unit)
    total = sum(arm.weight for arm in experiment.arms)
    edge = 0.0
    for arm in experiment.arms:
        edge += arm.weight / total
        if at < edge:
            return arm
    # Rounding may leave the last edge a hair below one.
    return next(arm for arm in reversed(experiment.arms) if arm.weight > 0)
