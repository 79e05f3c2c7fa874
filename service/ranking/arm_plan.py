"""What the arms of a request ask for, as data. Knows arms of the contract, and nothing of files or hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from models.contract.experiments import Arm, Boost, Epsilon, PlackettLuce
from models.contract.exposures import ArmTaken


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """What to rank with, as in the contract's ``Arm``. None: not set, which is the live release, with knowledge, as it
    is scored."""

    release: str | None = None
    knowledge: Literal["on", "off"] | None = None
    rerank_top_n: int | None = None
    explore: Epsilon | PlackettLuce | None = None
    exclude_seen: bool | None = None
    boosts: tuple[Boost, ...] | None = None
    rerank_weight: float | None = None

    @classmethod
    def of(cls, arms: Iterable[Arm]) -> ArmSettings:
        """The settings of several arms; what two of them set is as the last one has it."""
        names = [setting.name for setting in fields(cls)]
        values: dict[str, Any] = {}
        for arm in arms:
            settings = ((name, getattr(arm, name)) for name in names)
            values.update((name, value) for name, value in settings if value is not None)
        return cls(**values)

    @property
    def uses_knowledge(self) -> bool:
        return self.knowledge != "off"


@dataclass(frozen=True, slots=True)
class Side:
    """An arm beside the one that was taken: a team of an interleaving, or a shadow."""

    arm: str
    settings: ArmSettings


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """The arms of one request and what they come to.

    teams         two arms whose orders are merged
    shadow        an arm whose scores are logged too
    keep          names of the buckets in which the unit's arms are to be stored, with the arm and the days it lives
    unit_missing  the unit is none, and the request is not exposed
    logs_all      an exposure names also the candidates that were not shown
    """

    arms: tuple[ArmTaken, ...] = ()
    settings: ArmSettings = ArmSettings()
    teams: tuple[Side, Side] | None = None
    shadow: Side | None = None
    keep: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    unit_missing: bool = False
    held_out: bool = False
    logs_all: bool = False

    @property
    def ranked_with(self) -> tuple[ArmSettings, ...]:
        """The settings whose scores make the order: one arm's, or those of two teams."""
        return (self.settings,) if self.teams is None else tuple(side.settings for side in self.teams)
