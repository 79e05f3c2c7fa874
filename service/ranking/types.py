"""The words of the domain as data: request, candidate, user state, plan, release, answer.

Knows the contract's types and nothing of HTTP, Redis or ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from models.contract.artifact import ReleaseManifest
from models.contract.encoding import Sample as Sample
from models.contract.events import EVENT_DTYPE, EventArray
from models.contract.exposures import ArmTaken
from models.contract.items import ItemTable
from models.contract.knowledge import FloatArray, KnowledgeRecord, Space
from models.contract.schema import FeatureSchema

RerankMode = Literal["auto", "off", "force"]

Described = Mapping[str, Mapping[str, object]]
"""Features of items by id, as they came with a request."""

LADDER = (
    "not_pinned",
    "no_retrieval",
    "no_rerank",
    "rerank_off",
    "rerank_busy",
    "rerank_late",
    "rerank_failed",
    "rerank_flat",
    "no_knowledge",
    "no_features",
    "prior_order",
    "no_explain",
)
"""Words of ``degraded``, in the order in which they are reported.

``not_pinned``    the arm names a release that is not loaded, and the live one answered
``no_retrieval``  an index of items could not be searched, and popular items took the place of those near the user
``no_rerank``     the head was to be reranked and keeps the model's order, because
``rerank_off``    there is no reranker, or it does not answer its canaries as it should
``rerank_busy``   as many requests are being reranked as may be at once
``rerank_late``   there was no verdict before the deadline
``rerank_failed`` there was an error in place of a verdict, or something that is no order of the head
``rerank_flat``   every candidate got the same verdict
``no_knowledge``  the user's knowledge could not be read, or a record of it was refused; nothing stored is no reason to
                  say it, and the user's other records and the knowledge of the items, which lies in memory, may still
                  have been used
``no_features``   the user's history or profile could not be read, or a record of them was refused
``prior_order``   the model gave no scores; the items' smoothed shares of positive interactions took their place
``no_explain``    the scores without knowledge that the request asked for are not there
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Candidates that are to be found: ``count`` of those items that ``allow`` lists (None: the catalogue), without
    those of ``deny`` and without what the user has ``seen``, and with one of the values of each field in ``where``."""

    count: int
    exclude_seen: bool = True
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    where: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A valid request. ``arms`` forces arms by layer; ``top_k`` None answers every candidate. ``unit`` is who is split
    into arms, if not the user.

    candidates  distinct ids of the items to rank
    described   features of candidates by id: they describe items that the item table does not hold
    repeated    how many candidates were left out because their ids came before
    wanted      candidates to be found, for a request that brings none
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
    rerank: RerankMode = "auto"
    arms: Mapping[str, str] = field(default_factory=dict)
    wanted: Wanted | None = None


@dataclass(frozen=True, slots=True)
class UserState:
    """What is stored about one user. ``events`` are the last ones, oldest first.

    ``knowledge`` maps the fingerprints of spaces to the records that are valid. ``known`` is false if nothing at all is
    stored. ``refused`` holds the ladder words of records that are stored but must not be used. ``kept`` are the arms
    that the unit had before, by bucket; None if they were not asked for or could not be read.
    """

    features: dict[str, object] = field(default_factory=dict)
    events: EventArray = field(default_factory=lambda: np.zeros(0, EVENT_DTYPE))
    knowledge: Mapping[str, KnowledgeRecord] = field(default_factory=dict)
    known: bool = False
    kept: Mapping[str, str] | None = None
    refused: frozenset[str] = frozenset()


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


class Scorer(Protocol):
    """The model of a release, with its item table."""

    @property
    def in_parts(self) -> bool:
        """Whether what depends on items alone was computed before."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the model is served in a slower form than the published one."""
        ...

    async def score(self, sample: Sample) -> FloatArray:
        """Probabilities float32 [C], all finite. ScoringError otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Ids of candidates, and how many of them came from each source. Not ``complete``: an index failed."""

    ids: tuple[str, ...]
    sources: Mapping[str, int]
    complete: bool = True


class Retriever(Protocol):
    """What finds candidates among the items of a release."""

    @property
    def problem(self) -> str | None:
        """Why an index that the release names cannot be used."""
        ...

    async def retrieve(self, wanted: Wanted, user: UserState, knowledge: bool) -> Retrieved:
        """Candidates near the user's vector, or near what it liked, and popular ones; popular ones alone of a user of
        whom neither is known, without ``knowledge``, and if an index fails. InvalidRequest for a field that items have
        not."""
        ...


@dataclass(frozen=True, slots=True)
class Release:
    """All that is needed to rank: one immutable value, replaced as a whole."""

    manifest: ReleaseManifest
    schema: FeatureSchema
    spaces: tuple[Space, ...]
    table: ItemTable
    scorer: Scorer
    retriever: Retriever
    revision: str
    loaded_at: float
    swap_ms: float

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def user_spaces(self) -> tuple[Space, ...]:
        """The spaces in which users have knowledge."""
        return tuple(space for space in self.spaces if space.side == "user")


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
    degraded: tuple[str, ...]
    timing_ms: Mapping[str, float]
    retrieved: Mapping[str, int] | None = None
