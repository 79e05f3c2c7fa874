"""One request's candidates, scored with one arm's settings. Whether the model answers in time, and what happens if not,
is the ranker's business."""

from __future__ import annotations

from dataclasses import dataclass

from models.contract.encoding import UserBatch
from models.contract.items import IntArray
from models.contract.knowledge import FloatArray
from service.ranking.ordering import BoolArray, boosted, ordered, seen
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
