"""The story of one request, from candidates to an order. Read ``Ranker.rank`` first.

Knows the order of the steps and the ladder by which a request degrades. Each step's technology is behind a port.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np

from models.contract.items import IntArray
from models.contract.knowledge import FloatArray
from service.errors import FeatureReadError, RerankError, ScoringError, Unavailable
from service.ranking.counting import count, knowledge_of
from service.ranking.deadline import Deadline
from service.ranking.exposing import Shadows, exposure_of
from service.ranking.ordering import Order, dice, drafted, drawn
from service.ranking.plan import ArmSettings, Plan
from service.ranking.ports import Experiments, Exposures, LiveRelease, Reranker, UserFeatures
from service.ranking.scored import Scored, adjusted, prepared, scored
from service.ranking.stopwatch import Stopwatch
from service.ranking.types import LADDER, RankAnswer, RankRequest, Release, UserState
from service.telemetry import Telemetry

log = logging.getLogger(__name__)

FEATURE_SHARE = 0.6
"""Part of the remaining time that the feature read may take: a hanging Redis must leave time to score without it."""

FORCED_TOP_N = 20
"""Length of the head when a request forces reranking and its arms name no length."""


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

        found = [await self._scored(request, one, live, user, deadline, words) for one in plan.ranked_with]
        baseline = await self._without_knowledge(request, found[0], deadline, words)
        watch.lap("score")

        orders = [await self._rerank(request, one, deadline, words) for one in found]
        shown = _composed(request, found, orders)
        watch.lap("rerank")

        positions = shown.positions[: request.top_k]
        answer = RankAnswer(
            request_id=request.request_id,
            ids=tuple(found[0].slate.ids[at] for at in positions.tolist()),
            scores=tuple(_scores(shown, found)[positions].tolist()),
            without_knowledge=None if baseline is None else tuple(baseline[positions].tolist()),
            manifest=found[0].release.manifest,
            arms=plan.arms,
            knowledge=knowledge_of(found[0], user, now),
            degraded=tuple(word for word in LADDER if word in words),
            timing_ms=watch.finish(deadline.elapsed()),
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
            user = await self._user(request.user_id, every, every, deadline, words, unit)
            plan = experiments.assign(unit, request.arms, now, user.kept)
        else:
            plan = experiments.assign(unit, request.arms, now)
            releases = [(self._release(one, live) or live, one.uses_knowledge) for one in plan.scored_with]
            knowing = [release for release, uses_knowledge in releases if uses_knowledge]
            user = await self._user(request.user_id, [one for one, _ in releases], knowing, deadline, words)
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
    ) -> UserState:
        """Stored features of the user for ``releases`` and knowledge for those ``knowing``; without them if they cannot
        be read in time."""
        if not user_id and not unit:
            return UserState()
        spaces = list({space.fingerprint: space for one in knowing for space in one.user_spaces}.values())
        length = max(one.schema.history_length for one in releases)
        try:
            user = await self._users.fetch(user_id, spaces, length, deadline.share(FEATURE_SHARE), unit)
        except FeatureReadError:
            words.update({"no_features", "no_knowledge"} if spaces else {"no_features"})
            return UserState()
        words.update(user.refused)
        return user

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
        if not deadline.spent:
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
        if found.by_model and not deadline.spent:
            if not found.settings.uses_knowledge:
                return found.scores
            try:
                return adjusted(found, await found.release.scorer.score(replace(found.sample, knowledge=False)))
            except ScoringError:
                pass
        words.add("no_explain")
        return None

    async def _rerank(self, request: RankRequest, found: Scored, deadline: Deadline, words: set[str]) -> IntArray:
        """The order with its head rearranged, or unchanged if nobody asks for it or the reranker gives no verdict."""
        order, top_n = found.order, self._head_length(request, found.settings)
        head = order[:top_n]
        if len(head) == 0:
            return order
        try:
            if deadline.spent:
                raise RerankError("no time left")
            ids = [found.slate.ids[at] for at in head.tolist()]
            positions = _permutation(await self._reranker.rerank(request, ids, deadline), len(head))
        except RerankError:
            words.add("no_rerank")
            return order
        return np.concatenate([head[positions], order[top_n:]])

    def _head_length(self, request: RankRequest, settings: ArmSettings) -> int:
        wanted = settings.rerank_top_n or 0
        if request.rerank == "force":
            return wanted or FORCED_TOP_N
        return wanted if request.rerank == "auto" and self._reranker.configured else 0

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


def _composed(request: RankRequest, found: Sequence[Scored], orders: Sequence[IntArray]) -> Order:
    """The order that is shown: as it is, with its head drawn, or two merged."""
    if len(orders) == 2:
        count = len(orders[0]) if request.top_k is None else request.top_k
        return drafted(orders[0], orders[1], count, dice(request.request_id))
    one = found[0]
    if one.settings.explore is None:
        return Order(orders[0])
    return drawn(orders[0], one.scores, one.settings.explore, one.last, dice(request.request_id))


def _scores(shown: Order, found: Sequence[Scored]) -> FloatArray:
    """Scores [C] by which candidates came to their positions: the picking team's, if there were two."""
    scores = found[0].scores
    if shown.teams:
        scores = scores.copy()
        second = shown.positions[: len(shown.teams)][np.asarray(shown.teams, bool)]
        scores[second] = found[1].scores[second]
    return scores


def _permutation(positions: Sequence[int], length: int) -> IntArray:
    """``positions`` as an array; RerankError unless they are every number below ``length`` exactly once."""
    if sorted(positions) != list(range(length)):
        raise RerankError("the reranker's answer is not a permutation of the head")
    return np.asarray(positions, np.int64)
