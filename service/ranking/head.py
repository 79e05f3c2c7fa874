"""The head of an order, put before a reranker that may be slow, wrong or not there. Its order stands unless it is
improved upon in time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from models.contract.arrays import IntArray
from service.ranking.arm_plan import ArmSettings
from service.ranking.candidates import ScoredSlate
from service.ranking.degraded import Degraded, RerankError
from service.ranking.ports import Reranker
from service.ranking.state import RankState
from service.ranking.types import Head, RerankMode

FORCED_TOP_N = 20
"""Length of the head when a request forces reranking and its arms name no length."""

log = logging.getLogger(__name__)


def head_length(reranker: Reranker | None, mode: RerankMode, settings: ArmSettings) -> int:
    """Number of positions that are put before the reranker; 0 if nobody asks for it."""
    if mode is RerankMode.FORCE:
        return settings.rerank_top_n or FORCED_TOP_N
    return settings.rerank_top_n or 0 if mode is RerankMode.AUTO and reranker is not None else 0


async def rerank_head(reranker: Reranker | None, state: RankState, scored: ScoredSlate, length: int) -> IntArray:
    """The order int64 [C] with its first ``length`` positions rearranged, or unchanged without a verdict."""
    head, settings = scored.order[:length], scored.slate.arm.settings
    try:
        if state.deadline.spent:
            raise RerankError("no time left", Degraded.RERANK_LATE)
        if reranker is None:
            raise RerankError("no reranker is configured", Degraded.RERANK_OFF)
        verdict = await reranker.rerank(
            Head(
                ids=[scored.slate.ids[at] for at in head.tolist()],
                scores=scored.scores[head],
                user=state.user,
                weight=settings.rerank_weight,
                forced=state.request.rerank is RerankMode.FORCE,
            ),
            state.deadline,
        )
        return np.concatenate([head[_permutation(verdict, len(head))], scored.order[length:]])
    except RerankError as error:
        state.degraded.update((Degraded.NO_RERANK, error.step))
    except Exception:
        log.exception("a head cannot be reranked")
        state.degraded.update((Degraded.NO_RERANK, Degraded.RERANK_FAILED))
    return scored.order


def _permutation(positions: Sequence[int], length: int) -> IntArray:
    """``positions`` as an array; RerankError unless they are every number below ``length`` exactly once."""
    if sorted(positions) != list(range(length)):
        raise RerankError("the reranker's answer is not a permutation of the head")
    return np.asarray(positions, np.int64)
