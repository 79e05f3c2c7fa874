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
from service.ranking.plan import Plan
from service.ranking.types import Head, Release, UserState


class LiveRelease(Protocol):
    def current(self) -> Release | None:
        """The release that is served now, None before the first one is loaded."""
        ...

    def pinned(self, release: str) -> Release | None:
        """A release that an arm names, live or not; None if it is not loaded."""
        ...


class Experiments(Protocol):
    @property
    def keeps_arms(self) -> bool:
        """Whether ``assign`` wants to know the arms that units had before."""
        ...

    @property
    def releases(self) -> Sequence[str]:
        """Releases that arms pin."""
        ...

    def assign(self, unit: str, forced: Mapping[str, str], now: float, kept: Mapping[str, str] | None = None) -> Plan:
        """Arms of a unit at a time (unix seconds), which keeps the arms in ``kept``; pure. None: they are not known.

        InvalidRequest with field ``arms.<layer>`` if ``forced`` names what does not exist.
        """
        ...


class UserFeatures(Protocol):
    async def fetch(
        self, user_id: str, spaces: Sequence[Space], history_length: int, deadline: Deadline, unit: str | None = None
    ) -> UserState:
        """Everything stored about a user, in one round trip. FeatureReadError if it cannot be read in time.

        Knowledge is read in each of ``spaces``, without any not at all; what is refused in one space leaves the
        others. Nothing stored is not an error: ``known`` is false. With a ``unit`` its kept arms are read too.
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
