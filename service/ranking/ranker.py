"""The story of one request, from candidates to an order. Read ``Ranker.rank`` first.

Knows the order of the steps and the ladder by which a request degrades. Each step's technology is behind a port.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from models.contract.arrays import FloatArray
from models.contract.exposures import ArmTaken
from service.errors import no_release
from service.ranking.answer_log import AnswerLog
from service.ranking.candidates import ScoredSlate, merge_orders
from service.ranking.deadline import Deadline, Stopwatch
from service.ranking.degraded import Degraded, FeatureReadError, reported
from service.ranking.exploring import Order
from service.ranking.ports import Experiments, Exposures, LiveRelease, Release, Reranker, UserFeatures
from service.ranking.state import RankState, ResolvedArm
from service.ranking.types import ArmPlan, RankAnswer, RankRequest, RetrievalRequest, UserState
from service.telemetry import Telemetry

FEATURE_SHARE = 0.6
"""Part of the remaining time that the feature read may take: a hanging Redis must leave time to score without it."""

SEEN_EVENTS = 10_000
"""Number of events that are read to leave out items that the user has seen; histories are not longer by default."""


def _nobody(user_id: str) -> bool:
    """Whether a user opted out, where nobody can."""
    return False


@dataclass(eq=False)
class Ranker:
    """Ranks candidates. Between requests it only remembers the shadow scores that are under way; everything it uses is
    given to it once. Of a user who opted out nothing is read, and no answer is recorded but in metrics."""

    live: LiveRelease
    experiments: Callable[[], Experiments]
    users: UserFeatures
    reranker: Reranker | None
    exposures: Exposures
    telemetry: Telemetry
    is_opted_out: Callable[[str], bool] = _nobody

    def __post_init__(self) -> None:
        self._answers = AnswerLog(self.exposures, self.telemetry)

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        """Order the candidates of a request. Unavailable without a release, InvalidRequest for arms that do not exist.

        Whatever else goes wrong takes a lower step of the ladder and says so in ``degraded``.
        """
        state = self._begin(request, deadline)
        await self._choose_arms_and_read_user(state)
        if request.retrieval is not None:
            await self._retrieve_candidates(state, request.retrieval)

        slates = [await ScoredSlate.score(state, arm) for arm in state.arms]
        baseline = await slates[0].without_knowledge(state) if request.explain else None
        state.stopwatch.lap("score")

        shown, scores = await merge_orders(state, slates, self.reranker)
        state.stopwatch.lap("rerank")

        answer = _answer(state, slates[0], shown, scores, baseline)
        self._answers.record(state, slates[0], shown, answer)
        return answer

    async def arms(self, unit: str, deadline: Deadline) -> tuple[ArmTaken, ...]:
        """The arms that a ranking of this unit would name now. Nothing is ranked, and nothing is written."""
        experiments, sticky_arms = self.experiments(), None
        if experiments.keeps_arms and unit:
            with contextlib.suppress(FeatureReadError):
                user = await self.users.fetch("", [], 1, deadline.share(FEATURE_SHARE), unit)
                sticky_arms = user.sticky_arms
        return _named_arms(experiments.assign(unit, {}, time.time(), sticky_arms))

    async def close(self) -> None:
        """Wait until every answered request was offered to the exposure log."""
        await self._answers.close()

    def _begin(self, request: RankRequest, deadline: Deadline) -> RankState:
        live = self.live.current()
        if live is None:
            raise no_release()
        unit = request.user_id if request.unit is None else request.unit
        state = RankState(
            request,
            deadline,
            live,
            unit,
            time.time(),
            opted_out=self.is_opted_out(request.user_id) or self.is_opted_out(unit),
            stopwatch=Stopwatch(deadline.elapsed()),
        )
        if self.live.pointer_gone:
            state.degraded.add(Degraded.NO_POINTER)
        return state

    async def _choose_arms_and_read_user(self, state: RankState) -> None:
        """Fill in the arms, and what is stored of the user: the user first if arms are sticky."""
        experiments = self.experiments()
        if experiments.keeps_arms:
            releases = [state.live, *filter(None, map(self.live.pinned, experiments.releases))]
            state.user = await self._user(state, releases, releases, state.unit)
            self._choose_arms(state, experiments)
        else:
            self._choose_arms(state, experiments)
            knowing = [arm.release for arm in _every(state) if arm.settings.uses_knowledge]
            state.user = await self._user(state, [arm.release for arm in _every(state)], knowing)
        if not any(arm.settings.uses_knowledge for arm in state.arms):
            # The answer does without, whatever was read for sticky arms or a shadow.
            state.degraded.discard(Degraded.NO_KNOWLEDGE)
        state.stopwatch.lap("features")

    def _choose_arms(self, state: RankState, experiments: Experiments) -> None:
        state.plan = plan = experiments.assign(state.unit, state.request.arms, state.now, state.user.sticky_arms)
        state.arms = tuple([ResolvedArm.of(settings, state.live, self.live) for settings in plan.ranked_with])
        if plan.shadow is not None:
            state.shadow = ResolvedArm.of(plan.shadow.settings, state.live, self.live)

    async def _user(
        self, state: RankState, releases: Sequence[Release], knowing: Sequence[Release], unit: str | None = None
    ) -> UserState:
        """Stored features of the user for ``releases`` and knowledge for those ``knowing``; without them if they cannot
        be read in time. With the sticky arms of a ``unit``."""
        request = state.request
        if state.opted_out or (not request.user_id and not unit):
            return UserState()
        spaces = list({space.fingerprint: space for release in knowing for space in release.user_spaces}.values())
        length = max(release.schema.history_length for release in releases)
        if request.retrieval is not None and request.retrieval.exclude_seen:
            length = max(length, SEEN_EVENTS)
        try:
            user = await self.users.fetch(request.user_id, spaces, length, state.deadline.share(FEATURE_SHARE), unit)
        except FeatureReadError:
            state.degraded.update({Degraded.NO_FEATURES, Degraded.NO_KNOWLEDGE} if spaces else {Degraded.NO_FEATURES})
            return UserState()
        state.degraded.update(user.refused)
        return user

    async def _retrieve_candidates(self, state: RankState, retrieval: RetrievalRequest) -> None:
        """Fill in candidates of the release that the first arm is ranked with, and leave out of the user the events
        that were only read for what it has seen.

        An arm without knowledge retrieves none by it either: that would be the difference between the arms.
        """
        first = state.arms[0]
        retrieved = await first.release.retriever.retrieve(retrieval, state.user, first.settings.uses_knowledge)
        if not retrieved.complete:
            state.degraded.add(Degraded.NO_RETRIEVAL)
        events = state.user.events[-max(arm.release.schema.history_length for arm in _every(state)) :]
        state.request = replace(state.request, candidates=retrieved.ids)
        state.user = replace(state.user, events=events)
        state.retrieved = retrieved.sources
        state.stopwatch.lap("retrieve")


def _every(state: RankState) -> tuple[ResolvedArm, ...]:
    """The arms of the order, and the one in the shadow."""
    return state.arms if state.shadow is None else (*state.arms, state.shadow)


def _answer(
    state: RankState, scored: ScoredSlate, shown: Order, scores: FloatArray, baseline: FloatArray | None
) -> RankAnswer:
    """The answer that shows candidates in the order ``shown`` with ``scores`` [C] and, without knowledge,
    ``baseline`` [C]."""
    positions = shown.positions[: state.request.top_k]
    return RankAnswer(
        request_id=state.request.request_id,
        ids=tuple(scored.slate.ids[at] for at in positions.tolist()),
        scores=tuple(scores[positions].tolist()),
        without_knowledge=None if baseline is None else tuple(baseline[positions].tolist()),
        manifest=scored.slate.arm.release.manifest,
        arms=_named_arms(state.plan),
        knowledge=scored.knowledge,
        degraded=reported(state.degraded),
        timing_ms=state.stopwatch.finish(state.deadline.elapsed()),
        retrieved=state.retrieved,
    )


def _named_arms(plan: ArmPlan) -> tuple[ArmTaken, ...]:
    """The arms that an answer names: nobody is in none, though the control's settings ranked the candidates."""
    return tuple(taken for taken in plan.arms if taken.how != "missing") if plan.unit_missing else plan.arms
