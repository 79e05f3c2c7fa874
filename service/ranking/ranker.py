"""The story of one request, from candidates to an order. Read ``Ranker.rank`` first.

Knows the order of the steps and the ladder by which a request degrades. Each step's technology is behind a port.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from models.contract.encoding import Tensors, UserBatch, encode, without_knowledge
from models.contract.exposures import Exposure, history_digest
from models.contract.items import IntArray
from models.contract.knowledge import FloatArray
from service.errors import FeatureReadError, RerankError, ScoringError, Unavailable
from service.ranking.deadline import Deadline
from service.ranking.ports import Experiments, Exposures, LiveRelease, Reranker, UserFeatures
from service.ranking.slate import Slate, count_knowledge, distinct
from service.ranking.types import (
    LADDER,
    KnowledgeCount,
    Plan,
    RankAnswer,
    RankRequest,
    Release,
    UserState,
)
from service.telemetry import Telemetry

FEATURE_SHARE = 0.6
"""Part of the remaining time that the feature read may take: a hanging Redis must leave time to score without it."""

FORCED_TOP_N = 20
"""Length of the head when a request forces reranking and its arms name no length."""


class Ranker:
    """Ranks candidates. Stateless between requests; everything it uses is given to it once."""

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
        self._exposures = exposures
        self._telemetry = telemetry
        self._clock = clock

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        """Order the candidates of a request. Unavailable without a release, InvalidRequest for arms that do not exist.

        Whatever else goes wrong takes a lower step of the ladder and says so in ``degraded``.
        """
        watch = _Stopwatch()
        words: set[str] = set()
        release = self._live.current()
        if release is None:
            raise Unavailable("no release is loaded", code="no_release", retry_after_ms=1000)
        plan = self._experiments.assign(request.user_id, request.arms)

        user = await self._user(request.user_id, release, plan, deadline, words)
        watch.lap("features")

        slate = Slate.gather(release, distinct(request.candidates))
        tensors = _tensors(release, slate, user, plan)
        scores = await self._scores(release, slate, tensors, deadline, words)
        baseline = await self._without_knowledge(request, release, plan, tensors, scores, deadline, words)
        watch.lap("score")

        order = np.argsort(-scores, kind="stable")
        order = await self._rerank(request, plan, slate, order, deadline, words)
        watch.lap("rerank")

        knowledge = count_knowledge(release, slate, user, self._clock()) if plan.knowledge else KnowledgeCount()
        shown = order[: request.top_k]
        answer = RankAnswer(
            request_id=request.request_id,
            ids=tuple(slate.candidates[at].id for at in shown.tolist()),
            scores=tuple(scores[shown].tolist()),
            without_knowledge=None if baseline is None else tuple(baseline[shown].tolist()),
            manifest=release.manifest,
            choices=plan.choices,
            knowledge=knowledge,
            degraded=tuple(word for word in LADDER if word in words),
            timing_ms=watch.finish(deadline.elapsed()),
        )
        self._count(request, slate, user, answer, plan)
        self._exposures.offer(self._exposure(request, answer, slate, shown, user, plan))
        return answer

    async def _user(self, user_id: str, release: Release, plan: Plan, deadline: Deadline, words: set[str]) -> UserState:
        """Stored features and knowledge of the user; without them if they cannot be read in time."""
        spaces = release.user_spaces if plan.knowledge else ()
        share = deadline.share(FEATURE_SHARE)
        try:
            user = await self._users.fetch(user_id, spaces, release.schema.history_length, share)
        except FeatureReadError:
            words.update({"no_features", "no_knowledge"} if spaces else {"no_features"})
            return UserState()
        words.update(user.refused)
        return user

    async def _scores(
        self, release: Release, slate: Slate, tensors: Tensors, deadline: Deadline, words: set[str]
    ) -> FloatArray:
        """float32 [C] by the model; by the items' priors if the model fails or the time is already spent."""
        if not deadline.spent:
            try:
                return await release.scorer.score(tensors)
            except ScoringError:
                pass  # the scorer has logged why
        words.add("prior_order")
        return slate.priors()

    async def _without_knowledge(
        self,
        request: RankRequest,
        release: Release,
        plan: Plan,
        tensors: Tensors,
        scores: FloatArray,
        deadline: Deadline,
        words: set[str],
    ) -> FloatArray | None:
        """float32 [C]: the scores as if no knowledge existed, if the request asks what knowledge changed."""
        if not request.explain:
            return None
        if "prior_order" not in words and not deadline.spent:
            if not plan.knowledge:
                return scores
            try:
                return await release.scorer.score({**tensors, **without_knowledge(tensors)})
            except ScoringError:
                pass
        words.add("no_explain")
        return None

    async def _rerank(
        self, request: RankRequest, plan: Plan, slate: Slate, order: IntArray, deadline: Deadline, words: set[str]
    ) -> IntArray:
        """The order with its head rearranged, or unchanged if nobody asks for it or the reranker gives no verdict."""
        top_n = self._head_length(request, plan)
        head = order[:top_n]
        if len(head) == 0:
            return order
        try:
            if deadline.spent:
                raise RerankError("no time left")
            ids = [slate.candidates[at].id for at in head.tolist()]
            positions = _permutation(await self._reranker.rerank(request, ids, deadline), len(head))
        except RerankError:
            words.add("no_rerank")
            return order
        return np.concatenate([head[positions], order[top_n:]])

    def _head_length(self, request: RankRequest, plan: Plan) -> int:
        if request.rerank == "force":
            return plan.rerank_top_n or FORCED_TOP_N
        return plan.rerank_top_n if request.rerank == "auto" and self._reranker.configured else 0

    def _exposure(
        self, request: RankRequest, answer: RankAnswer, slate: Slate, shown: IntArray, user: UserState, plan: Plan
    ) -> Exposure:
        items = [slate.candidates[at] for at in shown.tolist()]
        return Exposure(
            request_id=request.request_id,
            user_id=request.user_id,
            time_ms=int(self._clock() * 1000),
            release=answer.manifest.id,
            arms={choice.layer: choice.arm for choice in plan.choices},
            knowledge=plan.knowledge,
            degraded=answer.degraded,
            items=answer.ids,
            scores=answer.scores,
            item_features={item.id: dict(item.features) for item in items if item.features},
            history_events=len(user.events),
            history_digest=history_digest(user.events),
        )

    def _count(self, request: RankRequest, slate: Slate, user: UserState, answer: RankAnswer, plan: Plan) -> None:
        count = self._telemetry
        for word in answer.degraded:
            count.degraded.labels(word).inc()
        for stage, milliseconds in answer.timing_ms.items():
            count.stage_seconds.labels(stage).observe(milliseconds / 1000.0)
        if not user.known and "no_features" not in answer.degraded:
            count.unknown_users.inc()
        if plan.unit_missing:
            count.missing_units.inc()
        count.unknown_candidates.inc(slate.unknown)
        count.duplicate_candidates.inc(len(request.candidates) - len(slate.candidates))
        count.knowledge.labels("fresh").inc(answer.knowledge.fresh)
        count.knowledge.labels("stale").inc(answer.knowledge.stale)
        count.knowledge.labels("missing").inc(answer.knowledge.missing)


def _tensors(release: Release, slate: Slate, user: UserState, plan: Plan) -> Tensors:
    vectors = {name: record.vectors for name, record in user.knowledge.items()}
    batch = UserBatch.single(release.schema, release.table, user.features, user.events, vectors)
    return encode(release.schema, release.table, batch, slate.items, knowledge=plan.knowledge)


def _permutation(positions: Sequence[int], length: int) -> IntArray:
    """``positions`` as an array; RerankError unless they are every number below ``length`` exactly once."""
    if sorted(positions) != list(range(length)):
        raise RerankError("the reranker's answer is not a permutation of the head")
    return np.asarray(positions, np.int64)


class _Stopwatch:
    """Milliseconds per step of one request. The total counts from the request's arrival, so it exceeds their sum."""

    __slots__ = ("_last", "_taken")

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._taken: dict[str, float] = {}

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self._taken[step] = round((now - self._last) * 1000.0, 3)
        self._last = now

    def finish(self, total: float) -> dict[str, float]:
        """With the ``total`` in seconds."""
        return {**self._taken, "total": round(total * 1000.0, 3)}
