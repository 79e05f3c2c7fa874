"""One rank request under way: what is known of it before anything is scored, and what its steps note meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.ranking.deadline import Deadline, Stopwatch
from service.ranking.degraded import Degraded
from service.ranking.ports import LiveRelease, Release
from service.ranking.types import ArmPlan, ArmSettings, RankRequest, UserState


@dataclass(frozen=True, slots=True)
class ResolvedArm:
    """Settings with the release that they are ranked with. ``stands_in``: it is the live one, in place of the release
    that the arm pins, which is not loaded."""

    settings: ArmSettings
    release: Release
    stands_in: bool = False

    @classmethod
    def of(cls, settings: ArmSettings, live: Release, releases: LiveRelease) -> ResolvedArm:
        name = settings.release
        release = live if name is None or name == live.id else releases.pinned(name)
        return cls(settings, release or live, stands_in=release is None)


@dataclass(slots=True)
class RankState:
    """The request of one call of ``Ranker.rank``, with what its steps share.

    The ranker fills it until the candidates are there; every later step returns its part, so that none can run before
    the step whose part it takes, which a state that all steps write into could not tell. What is filled in the state is
    what nearly every later step takes; new states in place of it took 3 % of a request. ``degraded`` and ``stopwatch``
    are added to by every step and read by none.

    request    with its candidates, once they were retrieved
    unit       who is split into arms; "" for nobody
    now        unix seconds at which arms and the freshness of knowledge are judged
    opted_out  whether nothing of the user may be read or recorded
    arms       of the plan: the one whose scores make the order, or the two teams
    shadow     of the plan: the arm whose scores are logged too
    retrieved  number of candidates by source; None for candidates that came with the request
    """

    request: RankRequest
    deadline: Deadline
    live: Release
    unit: str
    now: float
    opted_out: bool = False
    plan: ArmPlan = field(default_factory=ArmPlan)
    arms: tuple[ResolvedArm, ...] = ()
    shadow: ResolvedArm | None = None
    user: UserState = field(default_factory=UserState)
    retrieved: Mapping[str, int] | None = None
    degraded: set[Degraded] = field(default_factory=set)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
