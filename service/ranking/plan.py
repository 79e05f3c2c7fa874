"""What the arms of a request ask for, as data. Knows nothing of experiments files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from models.contract.exposures import ArmTaken


@dataclass(frozen=True, slots=True)
class Explore:
    """How the first ``positions`` are drawn. ``amount`` is epsilon's probability, or the temperature of the softmax."""

    kind: Literal["epsilon", "plackett-luce"]
    amount: float
    positions: int


@dataclass(frozen=True, slots=True)
class Boost:
    """``add`` to the log-odds of items with ``value`` in ``field``."""

    field: str
    value: str
    add: float


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """What to rank with. None: not set, which is the live release, with knowledge, as it is scored."""

    release: str | None = None
    knowledge: bool | None = None
    rerank_top_n: int | None = None
    explore: Explore | None = None
    exclude_seen: bool | None = None
    boosts: tuple[Boost, ...] | None = None
    rerank_weight: float | None = None

    def over(self, other: ArmSettings) -> ArmSettings:
        """These, and where they are not set, the ``other``."""
        found = {}
        for one in fields(self):
            mine = getattr(self, one.name)
            found[one.name] = getattr(other, one.name) if mine is None else mine
        return ArmSettings(**found)

    @property
    def uses_knowledge(self) -> bool:
        return self.knowledge is not False


@dataclass(frozen=True, slots=True)
class Side:
    """An arm beside the one that was taken: a team of an interleaving, or a shadow."""

    arm: str
    settings: ArmSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """The arms of one request and what they come to.

    ``teams`` are two arms whose orders are merged. ``shadow`` is an arm whose scores are logged too. ``keep`` names the
    buckets that the unit's arms are to be kept in, with the days they live. A unit that is missing is not exposed.
    ``logs_all``: an exposure names also what was not shown.
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
        return (self.settings,) if self.teams is None else tuple(one.settings for one in self.teams)

    @property
    def scored_with(self) -> tuple[ArmSettings, ...]:
        """All settings that a score is computed with: those of ``ranked_with``, then the shadow's."""
        return self.ranked_with if self.shadow is None else (*self.ranked_with, self.shadow.settings)
