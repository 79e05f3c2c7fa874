"""What one answered request adds to the metrics."""

from __future__ import annotations

from service.ranking.plan import Plan
from service.ranking.scored import Scored
from service.ranking.slate import count_knowledge
from service.ranking.types import KnowledgeCount, RankAnswer, RankRequest, UserState
from service.telemetry import Telemetry


def knowledge_of(scored: Scored, user: UserState, now: float) -> KnowledgeCount:
    """Records consulted; none by an arm that does without."""
    if not scored.settings.uses_knowledge:
        return KnowledgeCount()
    return count_knowledge(scored.release, scored.slate, user, now)


def count(
    telemetry: Telemetry, request: RankRequest, scored: Scored, user: UserState, answer: RankAnswer, plan: Plan
) -> None:
    for word in answer.degraded:
        telemetry.degraded.labels(word).inc()
    for stage, milliseconds in answer.timing_ms.items():
        telemetry.stages[stage].observe(milliseconds / 1000.0)
    if not user.known and "no_features" not in answer.degraded:
        telemetry.unknown_users.inc()
    if plan.unit_missing:
        telemetry.missing_units.inc()
    if unknown := scored.slate.unknown:
        telemetry.unknown_candidates.inc(unknown)
    for source, found in (answer.retrieved or {}).items():
        telemetry.retrieved.labels(source).inc(found)
    if request.repeated:
        telemetry.duplicate_candidates.inc(request.repeated)
    knowledge = answer.knowledge
    for state, found in (("fresh", knowledge.fresh), ("stale", knowledge.stale), ("missing", knowledge.missing)):
        if found:
            telemetry.knowledge_states[state].inc(found)
