"""The ranker's needs from the outside, as protocols, and a release, which holds two of them. One package of the
service implements each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from models.contract.arrays import FloatArray
from models.contract.artifact import ReleaseManifest
from models.contract.exposures import Exposure
from models.contract.items import ItemTable
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema
from service.ranking.deadline import Deadline
from service.ranking.types import ArmPlan, Head, RetrievalRequest, Retrieved, Sample, UserState


class Scorer(Protocol):
    """The model of a release, with its item table."""

    in_parts: bool
    """Whether all that depends on items alone was computed before."""

    problem: str | None
    """Why the model is served in a slower form than the published one."""

    async def score(self, sample: Sample) -> FloatArray:
        """Probabilities float32 [C], all finite. ScoringError otherwise."""
        ...


class Retriever(Protocol):
    """The search for candidates among the items of a release."""

    problem: str | None
    """Why an index that the release names cannot be used."""

    async def retrieve(self, request: RetrievalRequest, user: UserState, knowledge: bool) -> Retrieved:
        """Candidates near the user's vector, or near what it liked, and popular ones; popular ones alone of a user of
        whom neither is known, without ``knowledge``, and if an index fails. InvalidRequest for a field that items have
        not, and for a value that a field has not."""
        ...


@dataclass(frozen=True)
class Release:
    """All that is needed to rank: one immutable value, replaced as a whole. ``items_problem``: why the item table does
    not come from the release's files."""

    manifest: ReleaseManifest
    schema: FeatureSchema
    spaces: tuple[Space, ...]
    table: ItemTable
    scorer: Scorer
    retriever: Retriever
    revision: str
    loaded_at: float
    swap_ms: float
    items_problem: str | None = None

    @property
    def id(self) -> str:
        return self.manifest.id

    @cached_property
    def user_spaces(self) -> tuple[Space, ...]:
        """The spaces in which users have knowledge."""
        return tuple(space for space in self.spaces if space.side == "user")


class LiveRelease(Protocol):
    def current(self) -> Release | None:
        """The release that is served now, None before the first one is loaded."""
        ...

    @property
    def pointer_gone(self) -> bool:
        """Whether what names the release that is to be served is there no more, although one is served."""
        ...

    def pinned(self, release: str) -> Release | None:
        """A release that an arm names, live or not; None if it is not loaded."""
        ...


class Experiments(Protocol):
    @property
    def keeps_arms(self) -> bool:
        """Whether ``assign`` takes the arms that units had before."""
        ...

    @property
    def releases(self) -> Sequence[str]:
        """Releases that arms pin."""
        ...

    def assign(
        self, unit: str, forced: Mapping[str, str], now: float, sticky_arms: Mapping[str, str] | None = None
    ) -> ArmPlan:
        """Arms of a unit at a time (unix seconds), which stays in its ``sticky_arms`` by bucket; pure. None: they are
        not known.

        InvalidRequest with field ``arms.<layer>`` if ``forced`` names what does not exist.
        """
        ...


class UserFeatures(Protocol):
    async def fetch(
        self, user_id: str, spaces: Sequence[Space], history_length: int, deadline: Deadline, unit: str | None = None
    ) -> UserState:
        """Everything stored about a user, in one round trip. FeatureReadError if it cannot be read in time.

        Knowledge is read in each of ``spaces``, without any not at all; what is refused in one space leaves the
        others. Nothing stored is not an error: ``known`` is false. With a ``unit`` its sticky arms are read too.
        """
        ...


class Reranker(Protocol):
    async def rerank(self, head: Head, deadline: Deadline) -> Sequence[int]:
        """A permutation of the head's positions, best first; as they are if asking is not worth it. RerankError if
        there is no verdict in time."""
        ...


class Exposures(Protocol):
    def offer(self, exposure: Exposure, keep: Mapping[str, tuple[str, float]]) -> None:
        """Log an exposure some time later, and keep its unit's arms: names of buckets with arm and days. Never waits,
        never raises."""
        ...

    def lose(self, reason: str) -> None:
        """Count an exposure that there should be and is not."""
        ...
