"""What the ranker needs from the outside, as protocols. One package of the service implements each.

The scorer's protocol is in ``types``, because a release holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from models.contract.events import Interaction
from models.contract.exposures import Exposure
from models.contract.knowledge import Space
from service.ranking.deadline import Deadline
from service.ranking.types import Plan, RankRequest, Release, UserState


class LiveRelease(Protocol):
    def current(self) -> Release | None:
        """The release that is served now, None before the first one is loaded."""
        ...


class Experiments(Protocol):
    def assign(self, unit: str, forced: Mapping[str, str]) -> Plan:
        """Arms of a unit; pure. InvalidRequest with field ``arms.<layer>`` if ``forced`` names what does not exist."""
        ...


class UserFeatures(Protocol):
    async def fetch(self, user_id: str, spaces: Sequence[Space], history_length: int, deadline: Deadline) -> UserState:
        """Everything stored about a user, in one round trip. FeatureReadError if it cannot be read in time.

        Knowledge is read in each of ``spaces``, without any not at all; what is refused in one space leaves the
        others. Nothing stored is not an error: ``known`` is false.
        """
        ...


class Feedback(Protocol):
    async def accept(self, interactions: Sequence[Interaction], types: Sequence[str], deadline: Deadline) -> None:
        """Record interactions; those of ``types`` are in the live history on return. Unavailable without Redis."""
        ...


class Reranker(Protocol):
    @property
    def configured(self) -> bool:
        """False if there is no reranker to ask."""
        ...

    async def rerank(self, request: RankRequest, head: Sequence[str], deadline: Deadline) -> Sequence[int]:
        """A permutation of the positions of ``head``, best first. RerankError if there is no verdict in time."""
        ...


class Exposures(Protocol):
    def offer(self, exposure: Exposure) -> None:
        """Log an exposure some time later. Never waits, never raises."""
        ...
