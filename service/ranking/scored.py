"""One request's candidates, scored with one arm's settings. Whether the model answers in time, and what happens if not,
is the ranker's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.encoding import UserBatch
from models.contract.items import IntArray
from models.contract.knowledge import FloatArray
from service.ranking.ordering import BoolArray, Order, boosted, dice, drafted, drawn, ordered, seen
from service.ranking.plan import ArmSettings
from service.ranking.slate import Slate
from service.ranking.types import RankRequest, Release, Sample, UserState


@dataclass(frozen=True, slots=True)
class Scored:
    """``scores`` float32 [C] with boosts; ``last`` marks candidates that come behind all others; ``order`` is by both.
    ``by_model`` is false if items' priors took the place of the model's answer."""

    settings: ArmSettings
    release: Release
    slate: Slate
    sample: Sample
    scores: FloatArray
    last: BoolArray | None
    order: IntArray
    by_model: bool


def prepared(settings: ArmSettings, release: Release, request: RankRequest, user: UserState) -> tuple[Slate, Sample]:
    """Candidates as rows of the release's item table, and what the model is to score."""
    slate = Slate.gather(release, request.candidates, request.described)
    vectors = {
        space.name: user.knowledge[space.fingerprint].vectors
        for space in release.user_spaces
        if space.fingerprint in user.knowledge
    }
    batch = UserBatch.single(release.schema, release.table, user.features, user.events, vectors)
    return slate, Sample(batch, slate.rows, slate.described, settings.uses_knowledge)


def adjusted(found: Scored, scores: FloatArray) -> FloatArray:
    """Other scores of the same candidates, with the same boosts."""
    return boosted(scores, found.settings.boosts, found.release, found.slate) if found.settings.boosts else scores


def scored(
    settings: ArmSettings, release: Release, slate: Slate, sample: Sample, scores: FloatArray | None, user: UserState
) -> Scored:
    """With the model's ``scores``, or the items' priors if there are none."""
    by_model = scores is not None
    found = slate.priors() if scores is None else scores
    if settings.boosts:
        found = boosted(found, settings.boosts, release, slate)
    last = seen(release, slate, user) if settings.exclude_seen else None
    return Scored(settings, release, slate, sample, found, last, ordered(found, last), by_model)


def composed(request: RankRequest, found: Sequence[Scored], orders: Sequence[IntArray]) -> Order:
    """The order that is shown: as it is, with its head drawn, or two merged."""
    if len(orders) == 2:
        count = len(orders[0]) if request.top_k is None else request.top_k
        return drafted(orders[0], orders[1], count, dice(request.request_id))
    one = found[0]
    if one.settings.explore is None:
        return Order(orders[0])
    return drawn(orders[0], one.scores, one.settings.explore, one.last, dice(request.request_id))


def shown_scores(shown: Order, found: Sequence[Scored]) -> FloatArray:
    """Scores [C] by which candidates came to their positions: the picking team's, if there were two."""
    scores = found[0].scores
    if shown.teams:
        scores = scores.copy()
        second = shown.positions[: len(shown.teams)][np.asarray(shown.teams, bool)]
        scores[second] = found[1].scores[second]
    return scores
