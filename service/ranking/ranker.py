"""The story of one request, from candidates to an order. Read ``Ranker.rank`` first.

Knows the order of the steps and the ladder by which a request degrades. Each step's technology is behind a port.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from models.contract.arrays import FloatArray
from service.errors import FeatureReadError, ScoringError, Unavailable
from service.ranking.counting import count, knowledge_of
from service.ranking.deadline import Deadline
from service.ranking.exposing import Shadows, exposure_of
from service.ranking.head import reranked
from service.ranking.ordering import Order
from service.ranking.plan import ArmSettings, Plan
from service.ranking.ports import Experiments, Exposures, LiveRelease, Reranker, UserFeatures
from service.ranking.scored import Scored, adjusted, composed, prepared, scored, shown_scores
from service.ranking.stopwatch import Stopwatch
from service.ranking.types import LADDER, RankAnswer, RankRequest, Release, UserState, Wanted
from service.telemetry import Telemetry

log = logging.getLogger(__name__)

FEATURE_SHARE = 0.6
"""Part of the remaining time that the feature read may take: a hanging Redis must leave time to score without it."""

SEEN_EVENTS = 10_000
"""As many events are read to leave out of what is found what the user has seen; histories are not longer by default."""


class Ranker:
    """Ranks candidates. Between requests it only remembers the shadow scores that are under way; everything it uses is
    given to it once."""

    def __init__(
        self,
        live: LiveRelease,
        experiments: Experiments,
        users: UserFeatures,
        reranker: Reranker,
        exposures: Exposures,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._experiments = experiments
        self._users = users
        self._reranker = reranker
        self._telemetry = telemetry
        self._clock = clock
        self._exposures = exposures
        self._shadows = Shadows(exposures, telemetry)

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        """Order the candidates of a request. Unavailable without a release, InvalidRequest for arms that do not exist.

        Whatever else goes wrong takes a lower step of the ladder and says so in ``degraded``.
        """
        watch, words, now = Stopwatch(), set[str](), self._clock()
        live = self._live.current()
        if live is None:
            raise Unavailable("no release is loaded", code="no_release", retry_after_ms=1000)
        plan, user = await self._plan_and_user(request, live, now, deadline, words)
        watch.lap("features")

        retrieved: Mapping[str, int] | None = None
        if request.wanted is not None:
            request, user, retrieved = await self._with_candidates(request, request.wanted, plan, live, user, words)
            watch.lap("retrieve")

        found = [await self._scored(request, one, live, user, deadline, words) for one in plan.ranked_with]
        baseline = await self._without_knowledge(request, found[0], deadline, words)
        watch.lap("score")

        orders = [await reranked(self._reranker, request, one, user, deadline, words) for one in found]
        shown = composed(request, found, orders)
        watch.lap("rerank")

        positions = shown.positions[: request.top_k]
        answer = RankAnswer(
            request_id=request.request_id,
            ids=tuple(found[0].slate.ids[at] for at in positions.tolist()),
            scores=tuple(shown_scores(shown, found)[positions].tolist()),
            without_knowledge=None if baseline is None else tuple(baseline[positions].tolist()),
            manifest=found[0].release.manifest,
            arms=plan.arms,
            knowledge=knowledge_of(found[0], user, now),
            degraded=tuple(word for word in LADDER if word in words),
            timing_ms=watch.finish(deadline.elapsed()),
            retrieved=retrieved,
        )
        count(self._telemetry, request, found[0], user, answer, plan)
        if not plan.unit_missing:
            self._expose(request, answer, found[0], shown, user, plan, live, now)
        return answer

    async def close(self) -> None:
        """Wait until every answered request was offered to the exposure log."""
        await self._shadows.close()

    async def _plan_and_user(
        self, request: RankRequest, live: Release, now: float, deadline: Deadline, words: set[str]
    ) -> tuple[Plan, UserState]:
        """The arms, and what is stored of the user. If arms are kept, what is stored comes first."""
        experiments = self._experiments
        unit = request.user_id if request.unit is None else request.unit
        if experiments.keeps_arms:
            every = [live, *filter(None, map(self._live.pinned, experiments.releases))]
            user = await self._user(request.user_id, every, every, deadline, words, unit, request.wanted)
            plan = experiments.assign(unit, request.arms, now, user.kept)
        else:
            plan = experiments.assign(unit, request.arms, now)
            releases = [(self._release(one, live) or live, one.uses_knowledge) for one in plan.scored_with]
            knowing = [release for release, uses_knowledge in releases if uses_knowledge]
            read = [one for one, _ in releases]
            user = await self._user(request.user_id, read, knowing, deadline, words, wanted=request.wanted)
        if not any(one.uses_knowledge for one in plan.ranked_with):
            words.discard("no_knowledge")  # the answer does without, whatever was read for kept arms or a shadow
        return plan, user

    async def _user(
        self,
        user_id: str,
        releases: Sequence[Release],
        knowing: Sequence[Release],
        deadline: Deadline,
        words: set[str],
        unit: str | None = None,
        wanted: Wanted | None = None,
    ) -> UserState:
        """Stored features of the user for ``releases`` and knowledge for those ``knowing``; without them if they cannot
        be read in time."""
        if not user_id and not unit:
            return UserState()
        spaces = list({space.fingerprint: space for one in knowing for space in one.user_spaces}.values())
        length = max(one.schema.history_length for one in releases)
        if wanted is not None and wanted.exclude_seen:
            length = max(length, SEEN_EVENTS)
        try:
            user = await self._users.fetch(user_id, spaces, length, deadline.share(FEATURE_SHARE), unit)
        except FeatureReadError:
            words.update({"no_features", "no_knowledge"} if spaces else {"no_features"})
            return UserState()
        words.update(user.refused)
        return user

    async def _with_candidates(
        self, request: RankRequest, wanted: Wanted, plan: Plan, live: Release, user: UserState, words: set[str]
    ) -> tuple[RankRequest, UserState, Mapping[str, int]]:
        """The request with candidates of the release that its first arm answers from, how many came from where, and the
        user without the events that only told what was seen.

        An arm without knowledge finds none by it either: that would be the difference between the arms.
        """
        first = plan.ranked_with[0]
        release = self._release(first, live) or live
        found = await release.retriever.retrieve(wanted, user, first.uses_knowledge)
        if not found.complete:
            words.add("no_retrieval")
        releases = [self._release(one, live) or live for one in plan.scored_with]
        read = max(one.schema.history_length for one in releases)
        return replace(request, candidates=found.ids), replace(user, events=user.events[-read:]), found.sources

    def _release(self, settings: ArmSettings, live: Release) -> Release | None:
        """The release that an arm answers from; None if it pins one that is not loaded."""
        if settings.release is None or settings.release == live.id:
            return live
        return self._live.pinned(settings.release)

    async def _scored(
        self,
        request: RankRequest,
        settings: ArmSettings,
        live: Release,
        user: UserState,
        deadline: Deadline,
        words: set[str],
    ) -> Scored:
        """Candidates by the model; by the items' priors if the model fails or the time is already spent."""
        release = self._release(settings, live)
        if release is None:
            release = live
            words.add("not_pinned")
        slate, sample = prepared(settings, release, request, user)
        scores = None
        if not request.candidates:
            scores = np.zeros(0, np.float32)  # nothing was found for it
        elif not deadline.spent:
            with contextlib.suppress(ScoringError):  # the scorer has logged why
                scores = await release.scorer.score(sample)
        if scores is None:
            words.add("prior_order")
        return scored(settings, release, slate, sample, scores, user)

    async def _without_knowledge(
        self, request: RankRequest, found: Scored, deadline: Deadline, words: set[str]
    ) -> FloatArray | None:
        """float32 [C]: the scores as if no knowledge existed, if the request asks what knowledge changed."""
        if not request.explain:
            return None
        if not request.candidates:
            return found.scores
        if found.by_model and not deadline.spent:
            if not found.settings.uses_knowledge:
                return found.scores
            try:
                return adjusted(found, await found.release.scorer.score(replace(found.sample, knowledge=False)))
            except ScoringError:
                pass
        words.add("no_explain")
        return None

    def _expose(
        self,
        request: RankRequest,
        answer: RankAnswer,
        found: Scored,
        shown: Order,
        user: UserState,
        plan: Plan,
        live: Release,
        now: float,
    ) -> None:
        """Offer what was shown to the exposure log. An exposure that cannot be made is counted: the answer stands."""
        try:
            exposure = exposure_of(request, answer, found, shown, user, plan, now)
        except Exception:
            log.exception("no exposure of request %s", request.request_id)
            self._exposures.lose("invalid")
            return
        self._shadows.offer(exposure, plan, self._shadow(request, plan, live, user), shown.positions)

    def _shadow(
        self, request: RankRequest, plan: Plan, live: Release, user: UserState
    ) -> Callable[[], Awaitable[FloatArray]] | None:
        """What makes scores [C] of the arm in the shadow, if there is one. They have all the time they need."""
        if plan.shadow is None:
            return None
        settings = plan.shadow.settings
        release = self._release(settings, live)

        async def score() -> FloatArray:
            if release is None:  # another one's scores would be taken for this arm's
                raise ScoringError(f"release {settings.release} is not loaded")
            slate, sample = prepared(settings, release, request, user)
            shadow = scored(settings, release, slate, sample, await release.scorer.score(sample), user)
            return shadow.scores if shadow.last is None else shadow.scores - shadow.last

        return score
