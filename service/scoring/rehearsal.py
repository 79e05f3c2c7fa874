"""Whether a model in parts gives the scores of the whole: both score made-up samples before anybody asks for real ones.

Knows the contract's schema and what a sample is. Does not know graphs, sessions or releases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.contract.artifact import ArtifactManifest
from models.contract.encoding import UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.contract.schema import FeatureSchema
from service.ranking.types import Sample
from service.scoring.partial import UncutError
from service.scoring.scorers import OnnxScorer

TOLERANCE = 1e-3
"""By how much scores of a model in parts may differ from those of the whole, as a share of their standard deviation
over candidates; beside it counts what single precision cannot tell."""
_PRECISION, _LEAST_SPREAD = 2e-7, 1e-6


def compare(whole: OnnxScorer, parts: OnnxScorer, samples: Sequence[Sample]) -> None:
    """UncutError unless the parts' scores are those of the whole, and these differ among candidates."""
    scores = [(whole.run(one), parts.run(one)) for one in samples]
    spread = float(np.median([one.std() for one, _ in scores if len(one) > 1]))
    apart = max(float(np.abs(one - other).max()) for one, other in scores)
    if spread <= _LEAST_SPREAD:
        raise UncutError("its scores do not tell made-up candidates apart")
    if apart > TOLERANCE * spread + _PRECISION:
        raise UncutError(f"scores of its parts differ by {apart:.1e}, among candidates by {spread:.1e}")


def rehearsal(artifact: ArtifactManifest) -> tuple[ItemTable, list[Sample]]:
    """Made-up items and samples of them: users with and without a history, with knowledge and without, one candidate
    and several, known ones and described ones."""
    random, schema, n = np.random.default_rng(0), artifact.feature_schema, 64
    limits = [spec.cardinality for spec in schema.item_fields for _ in range(spec.slots)]
    table = ItemTable.build(
        schema,
        ids=[f"item {at}" for at in range(n)],
        index=random.integers(artifact.item_rows, size=n),
        categorical=random.integers(limits, size=(n, len(limits))),
        numeric=random.normal(size=(n, 3)),
        vectors=random.normal(size=(n, schema.item_width)).astype(np.float32),
        expires_at=np.ones((n, len(schema.item_knowledge))),
    )
    samples = []
    for events in (0, 1, min(7, schema.history_length), min(150, schema.history_length)):
        user = _made_up_user(schema, table, events, random)
        rows = random.integers(n + 1, size=20)
        described = np.asarray([3, 5]), random.integers(limits, size=(2, len(limits)))
        samples += [Sample(user, rows), Sample(user, rows, knowledge=False), Sample(user, rows[:1])]
        samples += [Sample(user, rows, described), Sample(user, rows, described, knowledge=False)]
    return table, samples


def _made_up_user(schema: FeatureSchema, table: ItemTable, events: int, random: np.random.Generator) -> UserBatch:
    knowledge = {name: random.normal(size=(1, one.stop - one.start)) for name, one in schema.user_columns.items()}
    if schema.sequence is not None:
        knowledge[schema.sequence.name] = random.normal(size=(schema.sequence.rows, schema.sequence.dim))
    vectors = {name: one.astype(np.float32) for name, one in knowledge.items()}
    user = UserBatch.single(schema, table, {}, np.zeros(events, EVENT_DTYPE), vectors)
    user.history_rows[0, :events] = random.integers(1, len(table), size=events)
    user.history_values[0, :events] = random.uniform(schema.value_min, schema.value_max, size=events)
    return user
