"""The candidates of one request: looked up, scored with the settings of an arm, put in an order, its head reranked.

Knows the item table, the ports of scorer and reranker, and arrays. Does not know where users, arms or releases come
from.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.encoding import UserBatch
from models.contract.schema import ITEM_NUMERIC
from service.ranking.degraded import Degraded, RerankError, ScoringError
from service.ranking.exploring import Order, dice, draw_head, log_odds, team_draft
from service.ranking.ports import Reranker
from service.ranking.state import RankState, ResolvedArm
from service.ranking.types import Head, KnowledgeCount, RankRequest, RerankMode, Sample, UserState

FORCED_TOP_N = 20
"""Length of the head when a request forces reranking and its arms name no length."""

_LIKED_RATE = ITEM_NUMERIC.index("liked_rate")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Slate:
    """C distinct candidates as one arm sees them.

    arm     the settings and the release that they are ranked with
    ids     of the candidates, by their position in the request
    sample  what the model scores: the user, and the candidates as rows of the release's item table
    """

    arm: ResolvedArm
    ids: tuple[str, ...]
    sample: Sample

    @classmethod
    def build(cls, arm: ResolvedArm, request: RankRequest, user: UserState, now: float) -> Slate:
        """Look candidates up. Features of the request describe unknown items only: what the catalogue knows of an
        item was encoded as in training, what a caller sends was not checked by anybody."""
        release, ids, features = arm.release, request.candidates, request.described
        rows = release.table.rows_of(ids)
        new = [at for at in np.flatnonzero(rows == 0).tolist() if ids[at] in features] if features else []
        described = None
        if new:
            fields = [release.schema.encode_item_fields(features[ids[at]]) for at in new]
            described = np.asarray(new, np.int64), np.asarray(fields, np.int64)
        vectors = {
            space.name: user.knowledge[space.fingerprint].vectors
            for space in release.user_spaces
            if space.fingerprint in user.knowledge
        }
        batch = UserBatch.single(release.schema, release.table, user.features, user.events, vectors, int(now * 1000))
        return cls(arm, ids, Sample(batch, rows, described, arm.settings.uses_knowledge))

    def priors(self) -> FloatArray:
        """float32 [C]: each item's smoothed share of positive interactions, the order of last resort."""
        # The contract stores the rate on a scale of -1..1.
        rates: FloatArray = self.arm.release.table.numeric[self.sample.rows, _LIKED_RATE]
        return (rates + np.float32(1.0)) / np.float32(2.0)

    def apply_boosts(self, scores: FloatArray) -> FloatArray:
        """Scores [C] with the boosts of the arm added to their log-odds."""
        boosts = self.arm.settings.boosts
        if not boosts:
            return scores
        added = np.zeros(len(scores), np.float64)
        categorical = self.arm.release.table.categorical[self.sample.rows]
        if self.sample.described is not None:
            positions, described = self.sample.described
            categorical[positions] = described
        at = 0
        for field in self.arm.release.schema.item_fields:
            columns = categorical[:, at : at + field.slots]
            at += field.slots
            for boost in boosts:
                if boost.field == field.name:
                    (index,) = field.encode(boost.value)[:1]
                    added += boost.add * ((columns == index).any(axis=1) & (index != 0))
        if not added.any():
            return scores
        return (1.0 / (1.0 + np.exp(-(log_odds(scores) + added)))).astype(np.float32)

    def seen(self, user: UserState) -> BoolArray | None:
        """bool [C]: candidates that the user's history holds, as far as it was read, and which the arm therefore puts
        behind all others; None for an arm without such a rule. Items must be of the catalogue."""
        if not self.arm.settings.exclude_seen:
            return None
        history = self.arm.release.table.rows_of_hashes(user.events["item"])
        return np.isin(self.sample.rows, history[history > 0])

    def count_knowledge(self, user: UserState, now: float) -> KnowledgeCount:
        """Fresh, stale and missing records among those consulted: in every space of the release, the user's or each
        candidate's; none for an arm that does without. A record is missing whatever the reason: refused, not yet made,
        or nothing to make it from."""
        if not self.arm.settings.uses_knowledge:
            return KnowledgeCount()
        expires = self.arm.release.table.expires_at[self.sample.rows]
        missing = int(np.count_nonzero(expires == 0))
        fresh = int(np.count_nonzero(expires > now))
        stale = expires.size - fresh - missing
        for space in self.arm.release.user_spaces:
            record = user.knowledge.get(space.fingerprint)
            if record is None:
                missing += 1
            elif record.is_fresh(now):
                fresh += 1
            else:
                stale += 1
        return KnowledgeCount(fresh, stale, missing)


@dataclass(frozen=True, slots=True)
class ScoredSlate:
    """Candidates as one arm scores them.

    scores     float32 [C]  the model's scores with the arm's boosts, by position in the request
    last       bool [C]     candidates that come behind all others, because the user has seen them; None: no such rule
    order      int64 [C]    positions, best first: candidates that are not ``last`` before the others, each by score
    knowledge  the records that were consulted for the scores
    by_model   false if the items' priors stand in for scores that the model did not give
    """

    slate: Slate
    scores: FloatArray
    last: BoolArray | None
    order: IntArray
    knowledge: KnowledgeCount
    by_model: bool

    @classmethod
    async def score(cls, state: RankState, arm: ResolvedArm) -> ScoredSlate:
        """The candidates by the model; by the items' priors if the model fails or the time is already spent."""
        if arm.stands_in:
            state.degraded.add(Degraded.NOT_PINNED)
        slate = Slate.build(arm, state.request, state.user, state.now)
        scores: FloatArray | None = None
        if not slate.ids:
            scores = np.zeros(0, np.float32)  # none were retrieved
        elif not state.deadline.spent:
            with contextlib.suppress(ScoringError):  # the scorer has logged why
                scores = await arm.release.scorer.score(slate.sample)
        by_model = scores is not None
        if scores is None:
            state.degraded.add(Degraded.PRIOR_ORDER)
            scores = slate.priors()
        scores, last = slate.apply_boosts(scores), slate.seen(state.user)
        knowledge = slate.count_knowledge(state.user, state.now)
        return cls(slate, scores, last, order_by(scores, last), knowledge, by_model)

    async def without_knowledge(self, state: RankState) -> FloatArray | None:
        """float32 [C]: the scores as if no knowledge existed; None if the model does not give them in time."""
        arm, sample = self.slate.arm, self.slate.sample
        if not self.slate.ids or (self.by_model and not state.deadline.spent and not sample.knowledge):
            return self.scores
        if self.by_model and not state.deadline.spent:
            with contextlib.suppress(ScoringError):
                return self.slate.apply_boosts(await arm.release.scorer.score(replace(sample, knowledge=False)))
        state.degraded.add(Degraded.NO_EXPLAIN)
        return None

    async def reranked(self, state: RankState, reranker: Reranker | None) -> IntArray:
        """The order int64 [C], with its head rearranged if the arm or the request asks for it. The reranker may be
        slow, wrong or not there: the order stands unless it is improved upon in time."""
        settings, forced = self.slate.arm.settings, state.request.rerank is RerankMode.FORCE
        asked = forced or (state.request.rerank is RerankMode.AUTO and reranker is not None)
        length = settings.rerank_top_n or (FORCED_TOP_N if forced else 0)
        head = self.order[: length if asked else 0]
        if not len(head):
            return self.order
        try:
            if state.deadline.spent:
                raise RerankError("no time left", Degraded.RERANK_LATE)
            if reranker is None:
                raise RerankError("no reranker is configured", Degraded.RERANK_OFF)
            ids = [self.slate.ids[at] for at in head.tolist()]
            task = Head(ids, self.scores[head], state.user, settings.rerank_weight, forced)
            verdict = await reranker.rerank(task, state.deadline)
            if sorted(verdict) != list(range(len(head))):
                raise RerankError("the reranker's answer is not a permutation of the head")
            return np.concatenate([head[np.asarray(verdict, np.int64)], self.order[len(head) :]])
        except RerankError as error:
            state.degraded.update((Degraded.NO_RERANK, error.step))
        except Exception:
            log.exception("a head cannot be reranked")
            state.degraded.update((Degraded.NO_RERANK, Degraded.RERANK_FAILED))
        return self.order


async def shadow_scores(state: RankState, shadow: ResolvedArm) -> FloatArray:
    """float32 [C]: scores of the arm in the shadow, less 1 where it would put a candidate behind all others. They have
    all the time they need. ScoringError if the model fails, or if the arm's release is not loaded."""
    if shadow.stands_in:  # the live release's scores would be taken for this arm's
        raise ScoringError(f"release {shadow.settings.release} is not loaded")
    slate = Slate.build(shadow, state.request, state.user, state.now)
    scores = slate.apply_boosts(await shadow.release.scorer.score(slate.sample))
    last = slate.seen(state.user)
    return scores if last is None else scores - last


def order_by(scores: FloatArray, last: BoolArray | None) -> IntArray:
    """Positions by falling score; those marked ``last`` behind all others."""
    keys = (-scores,) if last is None else (-scores, last)
    return np.lexsort(keys)


async def merge_orders(
    state: RankState, slates: Sequence[ScoredSlate], reranker: Reranker | None
) -> tuple[Order, FloatArray]:
    """The order that is shown, heads reranked: of one arm as it is, of one arm with a randomly drawn head, or of two
    teams merged. With the scores float32 [C] by which candidates came to their positions: of two teams, those of the
    picking one."""
    orders = [await scored.reranked(state, reranker) for scored in slates]
    first, scores, request = slates[0], slates[0].scores, state.request
    if len(orders) == 2:
        count = len(orders[0]) if request.top_k is None else request.top_k
        shown = team_draft(orders[0], orders[1], count, dice(request.request_id))
        second = shown.positions[: len(shown.teams)][np.asarray(shown.teams, bool)]
        scores = scores.copy()
        scores[second] = slates[1].scores[second]
        return shown, scores
    explore = first.slate.arm.settings.explore
    if explore is None:
        return Order(orders[0]), scores
    return draw_head(orders[0], scores, explore, first.last, dice(request.request_id)), scores
