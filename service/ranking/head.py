"""The head of an order, put before a reranker that may be slow, wrong or not there. Its order stands unless it is
improved upon in time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from models.contract.arrays import IntArray
from service.errors import RerankError
from service.ranking.deadline import Deadline
from service.ranking.plan import ArmSettings
from service.ranking.ports import Reranker
from service.ranking.scored import Scored
from service.ranking.types import Head, RankRequest, UserState

log = logging.getLogger(__name__)

FORCED_TOP_N = 20
"""Length of the head when a request forces reranking and its arms name no length."""


async def reranked(
    reranker: Reranker, request: RankRequest, found: Scored, user: UserState, deadline: Deadline, words: set[str]
) -> IntArray:
    """The order with its head rearranged, or unchanged if nobody asks for it or the reranker gives no verdict."""
    order, top_n = found.order, _head_length(reranker, request, found.settings)
    first = order[:top_n]
    if len(first) == 0:
        return order
    try:
        if deadline.spent:
            raise RerankError("no time left", "rerank_late")
        head = Head(
            ids=[found.slate.ids[at] for at in first.tolist()],
            scores=found.scores[first],
            user=user,
            weight=found.settings.rerank_weight,
            forced=request.rerank == "force",
        )
        positions = _permutation(await reranker.rerank(head, deadline), len(first))
    except RerankError as error:
        words |= {"no_rerank", error.word}
        return order
    except Exception:
        log.exception("a head cannot be reranked")
        words |= {"no_rerank", "rerank_failed"}
        return order
    return np.concatenate([first[positions], order[top_n:]])


def _head_length(reranker: Reranker, request: RankRequest, settings: ArmSettings) -> int:
    wanted = settings.rerank_top_n or 0
    if request.rerank == "force":
        return wanted or FORCED_TOP_N
    return wanted if request.rerank == "auto" and reranker.configured else 0


def _permutation(positions: Sequence[int], length: int) -> IntArray:
    """``positions`` as an array; RerankError unless they are every number below ``length`` exactly once."""
    if sorted(positions) != list(range(length)):
        raise RerankError("the reranker's answer is not a permutation of the head")
    return np.asarray(positions, np.int64)
