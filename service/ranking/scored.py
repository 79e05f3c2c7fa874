"""One request's candidates, scored with one arm's settings.

Knows scores, boosts and orders. Does not know deadlines: the ranker asks the model, and decides what late scores mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.encoding import UserBatch
from service.ranking.ordering import Order, boosted, dice, drafted, drawn, ordered, seen
from service.ranking.plan import ArmSettings
from service.ranking.slate import Slate
from service.ranking.types import RankRequest, Release, Sample, UserState


@dataclass(frozen=True, slots=True)
class Scored:
    """The C candidates of a request as one arm scores them.

    scores     float32 [C]  the model's scores with the arm's boosts, by position in the request
    last       bool [C]     candidates that come behind all others, because the user has seen them; None: no such rule
    order      int64 [C]    positions, best first: candidates that are not ``last`` before the others, each by score
    by_model   false if the items' priors stand in for scores that the model did not give
    """

    settings: ArmSettings
    release: Release
    slate: Slate
    sample: Sample
    scores: FloatArray
    last: BoolArray | None
    order: IntArray
    by_model: bool


def prepared(settings: ArmSettings, release: Release, request: RankRequest, user: UserState) -> tuple[Slate, Sample]:
    """The candidates as rows of the release's item table, and the sample that the model scores."""
    slate = Slate.gather(release, request.candidates, request.described)
    vectors = {
        space.name: user.knowledge[space.fingerprint].vectors
        for space in release.user_spaces
        if space.fingerprint in user.knowledge
    }
    batch = UserBatch.single(release.schema, release.table, user.features, user.events, vectors)
    return slate, Sample(batch, slate.rows, slate.described, settings.uses_knowledge)


def adjusted(found: Scored, scores: FloatArray) -> FloatArray:
    """Further scores float32 [C] of the candidates of ``found``, with the boosts of its arm."""
    return boosted(scores, found.settings.boosts, found.release, found.slate) if found.settings.boosts else scores


def scored(
    settings: ArmSettings, release: Release, slate: Slate, sample: Sample, scores: FloatArray | None, user: UserState
) -> Scored:
    """The candidates in order, by the model's ``scores`` float32 [C] or, if these are None, by the items' priors."""
    by_model = scores is not None
    found = slate.priors() if scores is None else scores
    if settings.boosts:
        found = boosted(found, settings.boosts, release, slate)
    last = seen(release, slate, user) if settings.exclude_seen else None
    return Scored(settings, release, slate, sample, found, last, ordered(found, last), by_model)


def composed(request: RankRequest, found: Sequence[Scored], orders: Sequence[IntArray]) -> Order:
    """The order that is shown: of one arm as it is, of one arm with a randomly drawn head, or of two teams merged."""
    if len(orders) == 2:
        count = len(orders[0]) if request.top_k is None else request.top_k
        return drafted(orders[0], orders[1], count, dice(request.request_id))
    one = found[0]
    if one.settings.explore is None:
        return Order(orders[0])
    return drawn(orders[0], one.scores, one.settings.explore, one.last, dice(request.request_id))


def shown_scores(shown: Order, found: Sequence[Scored]) -> FloatArray:
    """Scores float32 [C] by which candidates came to their positions: of two teams, those of the picking one."""
    scores = found[0].scores
    if shown.teams:
        scores = scores.copy()
        second = shown.positions[: len(shown.teams)][np.asarray(shown.teams, bool)]
        scores[second] = found[1].scores[second]
    return scores
