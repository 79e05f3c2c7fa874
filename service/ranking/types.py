"""The words of the domain as data: request, arms, candidate, user state, sample, answer.

Knows the contract's types and nothing of HTTP, Redis or ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.artifact import ReleaseManifest
from models.contract.encoding import Sample as Sample
from models.contract.events import EVENT_DTYPE, EventArray
from models.contract.experiments import Arm, Boost, Epsilon, PlackettLuce
from models.contract.exposures import ArmTaken
from models.contract.knowledge import KnowledgeRecord
from service.ranking.degraded import Degraded

Described = Mapping[str, Mapping[str, object]]
"""Features of items by id, as they came with a request."""


class RerankMode(StrEnum):
    """The reranking that a request asks for: as its arms have it, none, or whatever its arms have."""

    AUTO = "auto"
    OFF = "off"
    FORCE = "force"


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """Candidates that are to be found: ``count`` of those items that ``allow`` lists (None: the catalogue), without
    those of ``deny`` and without what the user has ``seen``, and with one of the values of each field in ``where``."""

    count: int
    exclude_seen: bool = True
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    where: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Ids of candidates, and how many of them came from each source. Not ``complete``: an index failed."""

    ids: tuple[str, ...]
    sources: Mapping[str, int]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A valid request. ``arms`` forces arms by layer; ``top_k`` None answers every candidate. ``unit`` is who is split
    into arms, if not the user.

    candidates  distinct ids of the items to rank
    described   features of candidates by id: they describe items that the item table does not hold
    repeated    how many candidates were left out because their ids came before
    retrieval   how candidates are found for a request that brings none
    """

    request_id: str
    user_id: str
    candidates: tuple[str, ...]
    described: Described = field(default_factory=dict)
    repeated: int = 0
    unit: str | None = None
    context: Mapping[str, object] = field(default_factory=dict)
    top_k: int | None = None
    explain: bool = False
    rerank: RerankMode = RerankMode.AUTO
    arms: Mapping[str, str] = field(default_factory=dict)
    retrieval: RetrievalRequest | None = None


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """Settings to rank with, as in the contract's ``Arm``. None: not set, which is the live release, with knowledge, as
    it is scored."""

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
class SideArm:
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
    teams: tuple[SideArm, SideArm] | None = None
    shadow: SideArm | None = None
    keep: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    unit_missing: bool = False
    held_out: bool = False
    logs_all: bool = False

    @property
    def ranked_with(self) -> tuple[ArmSettings, ...]:
        """The settings whose scores make the order: one arm's, or those of two teams."""
        return (self.settings,) if self.teams is None else tuple(side.settings for side in self.teams)


@dataclass(frozen=True, slots=True)
class UserState:
    """Stored state of one user. ``events`` are the last ones, oldest first.

    ``knowledge`` maps the fingerprints of spaces to the records that are valid. ``known`` is false if nothing at all is
    stored. ``refused`` holds the ladder's steps for records that are stored but must not be used. ``sticky_arms`` are
    the arms that the unit had before, by bucket; None if they were not asked for or could not be read.
    """

    features: dict[str, object] = field(default_factory=dict)
    events: EventArray = field(default_factory=lambda: np.zeros(0, EVENT_DTYPE))
    knowledge: Mapping[str, KnowledgeRecord] = field(default_factory=dict)
    known: bool = False
    sticky_arms: Mapping[str, str] | None = None
    refused: frozenset[Degraded] = frozenset()


@dataclass(frozen=True, slots=True)
class Head:
    """The first n of an order, for a reranker: ids, the CTR model's scores float32 [n], and the user.

    ``weight`` of the reranker's verdict against those scores; None is its own. ``forced``: asked
    whatever the history and the scores, unless the weight is 0.
    """

    ids: Sequence[str]
    scores: FloatArray
    user: UserState
    weight: float | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class KnowledgeCount:
    """Knowledge records consulted for one request: the user's and each candidate's, summed over spaces."""

    fresh: int = 0
    stale: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class RankAnswer:
    """An answered request. Columns are aligned: position p holds ``ids[p]`` with ``scores[p]``, best first.
    ``retrieved`` counts candidates by their source; None if they came with the request."""

    request_id: str
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    without_knowledge: tuple[float, ...] | None
    manifest: ReleaseManifest
    arms: tuple[ArmTaken, ...]
    knowledge: KnowledgeCount
    degraded: tuple[Degraded, ...]
    timing_ms: Mapping[str, float]
    retrieved: Mapping[str, int] | None = None
