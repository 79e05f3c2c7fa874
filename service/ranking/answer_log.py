"""Traces of an answered request: metrics, and an exposure, whose shadow scores are made after the answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import numpy as np

from models.contract.arrays import IntArray
from models.contract.exposures import Exposure, history_digest
from service.ranking.candidates import ScoredSlate, shadow_scores
from service.ranking.degraded import Degraded, ScoringError
from service.ranking.exploring import Order
from service.ranking.ports import Exposures
from service.ranking.state import RankState, ResolvedArm
from service.ranking.types import RankAnswer
from service.telemetry import Telemetry

MOST_SHADOWS = 32
"""Shadow scores that are made or wait at once; further exposures go without. Each holds a request's tensors."""

log = logging.getLogger(__name__)


class AnswerLog:
    """Counts answers, and offers their exposures to the exposure log: at once, or when their shadow scores are there.
    Never waits, never raises."""

    def __init__(self, exposures: Exposures, telemetry: Telemetry) -> None:
        self._exposures = exposures
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, state: RankState, scored: ScoredSlate, shown: Order, answer: RankAnswer) -> None:
        """Record an answer, which shows candidates of ``scored`` in the order ``shown``. An exposure that cannot be
        made is counted: the answer stands."""
        self._count(state, scored, answer)
        if state.plan.unit_missing or state.opted_out:
            return
        try:
            exposure = exposure_of(state, scored, shown, answer)
        except Exception:
            log.exception("no exposure of request %s", state.request.request_id)
            self._exposures.lose("invalid")
            return
        if state.shadow is None:
            self._exposures.offer(exposure, state.plan.keep)
        elif len(self._tasks) >= MOST_SHADOWS:
            self._telemetry.shadows_skipped.inc()
            self._exposures.offer(exposure, state.plan.keep)
        else:
            task = asyncio.create_task(self._shadowed(exposure, state, state.shadow, shown.positions))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait until every exposure is offered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _shadowed(self, exposure: Exposure, state: RankState, shadow: ResolvedArm, positions: IntArray) -> None:
        """``positions`` int64 [C] are those of the candidates that were shown, and then of the others."""
        try:
            with contextlib.suppress(ScoringError):  # the scorer has logged why
                scores = await shadow_scores(state, shadow)
                shown, unshown = np.split(scores[positions], [len(exposure.items)])
                scores_of_others = tuple(unshown.tolist()) if exposure.unshown else ()
                update = {"shadow": tuple(shown.tolist()), "unshown_shadow": scores_of_others}
                exposure = exposure.model_copy(update=update)
            if not exposure.shadow:
                self._telemetry.shadows_skipped.inc()
        finally:
            self._exposures.offer(exposure, state.plan.keep)

    def _count(self, state: RankState, scored: ScoredSlate, answer: RankAnswer) -> None:
        telemetry = self._telemetry
        telemetry.last_minute.note(answer.degraded)
        for step in answer.degraded:
            telemetry.degraded.labels(step).inc()
        for stage, milliseconds in answer.timing_ms.items():
            telemetry.stages[stage].observe(milliseconds / 1000.0)
        if not state.user.known and Degraded.NO_FEATURES not in answer.degraded:
            telemetry.unknown_users.inc()
        if state.plan.unit_missing:
            telemetry.missing_units.inc()
        rows = scored.slate.sample.rows
        if unknown := len(rows) - int(np.count_nonzero(rows)):
            telemetry.unknown_candidates.inc(unknown)
        for source, count in (answer.retrieved or {}).items():
            telemetry.retrieved.labels(source).inc(count)
        if state.request.repeated:
            telemetry.duplicate_candidates.inc(state.request.repeated)
        knowledge = answer.knowledge
        for name, count in (("fresh", knowledge.fresh), ("stale", knowledge.stale), ("missing", knowledge.missing)):
            if count:
                telemetry.knowledge_states[name].inc(count)


def exposure_of(state: RankState, scored: ScoredSlate, shown: Order, answer: RankAnswer) -> Exposure:
    """The exposure of an answer, without shadow scores. Candidates that were not shown have those of ``scored``."""
    request, plan, ids, count = state.request, state.plan, scored.slate.ids, len(answer.ids)
    others = shown.positions[count:] if plan.logs_all else shown.positions[:0]
    certain = (1.0,) * (count - len(shown.propensities)) if shown.propensities else ()
    return Exposure(
        request_id=request.request_id,
        user_id=request.user_id,
        unit=state.unit,
        time_ms=int(state.now * 1000),
        release=answer.manifest.id,
        arms=plan.arms,
        held_out=plan.held_out,
        knowledge=scored.slate.sample.knowledge,
        degraded=answer.degraded,
        latency_ms=answer.timing_ms["total"],
        candidates=len(ids),
        items=answer.ids,
        scores=answer.scores,
        item_features={name: dict(request.described[name]) for name in answer.ids if name in request.described},
        context=dict(request.context),
        history_events=len(state.user.events),
        history_digest=history_digest(state.user.events),
        shadow_arm="" if plan.shadow is None else plan.shadow.arm,
        propensities=(*shown.propensities, *certain)[:count],
        teams=tuple(plan.teams[team].arm for team in shown.teams[:count]) if plan.teams else (),
        unshown=tuple(ids[at] for at in others.tolist()),
        unshown_scores=tuple(scored.scores[others].tolist()),
    )
