"""Exposures of answered requests, and the scores of a shadow arm, which are made after the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.exposures import Exposure, history_digest
from service.errors import ScoringError
from service.ranking.ordering import Order
from service.ranking.plan import Plan
from service.ranking.ports import Exposures
from service.ranking.scored import Scored
from service.ranking.types import RankAnswer, RankRequest, UserState
from service.telemetry import Telemetry

MOST_SHADOWS = 32
"""Shadow scores that are made or wait at once; further exposures go without. Each holds a request's tensors."""


def exposure_of(
    request: RankRequest, answer: RankAnswer, scored: Scored, shown: Order, user: UserState, plan: Plan, now: float
) -> Exposure:
    """What the answer showed, without shadow scores. What it did not show has the scores of ``scored``."""
    count = len(answer.ids)
    rest = shown.positions[count:] if plan.logs_all else shown.positions[:0]
    certain = (1.0,) * (count - len(shown.propensities)) if shown.propensities else ()
    return Exposure(
        request_id=request.request_id,
        user_id=request.user_id,
        unit=request.user_id if request.unit is None else request.unit,
        time_ms=int(now * 1000),
        release=answer.manifest.id,
        arms=plan.arms,
        held_out=plan.held_out,
        knowledge=scored.settings.uses_knowledge,
        degraded=answer.degraded,
        latency_ms=answer.timing_ms["total"],
        candidates=len(scored.slate.ids),
        items=answer.ids,
        scores=answer.scores,
        item_features={one: dict(request.described[one]) for one in answer.ids if one in request.described},
        context=dict(request.context),
        history_events=len(user.events),
        history_digest=history_digest(user.events),
        shadow_arm="" if plan.shadow is None else plan.shadow.arm,
        propensities=(*shown.propensities, *certain)[:count],
        teams=tuple(plan.teams[one].arm for one in shown.teams[:count]) if plan.teams else (),
        unshown=tuple(scored.slate.ids[at] for at in rest.tolist()),
        unshown_scores=tuple(scored.scores[rest].tolist()),
    )


class Shadows:
    """Offers exposures to their log: at once, or with shadow scores when those are there."""

    def __init__(self, log: Exposures, telemetry: Telemetry) -> None:
        self._log = log
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(
        self, exposure: Exposure, plan: Plan, score: Callable[[], Awaitable[FloatArray]] | None, positions: IntArray
    ) -> None:
        """``score`` gives scores of all candidates; ``positions`` are the shown ones and then the others. Never waits,
        never raises."""
        if score is None:
            self._log.offer(exposure, plan.keep)
        elif len(self._tasks) >= MOST_SHADOWS:
            self._telemetry.shadows_skipped.inc()
            self._log.offer(exposure, plan.keep)
        else:
            task = asyncio.create_task(self._scored(exposure, plan, score, positions))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait until everything is offered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _scored(
        self, exposure: Exposure, plan: Plan, score: Callable[[], Awaitable[FloatArray]], positions: IntArray
    ) -> None:
        try:
            with contextlib.suppress(ScoringError):  # the scorer has logged why
                scores = await score()
                shown, rest = np.split(scores[positions], [len(exposure.items)])
                unshown = tuple(rest.tolist()) if exposure.unshown else ()
                exposure = exposure.model_copy(update={"shadow": tuple(shown.tolist()), "unshown_shadow": unshown})
            if not exposure.shadow:
                self._telemetry.shadows_skipped.inc()
        finally:
            self._log.offer(exposure, plan.keep)
