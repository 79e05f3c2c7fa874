"""The reranker of an installation without one."""

from __future__ import annotations

from collections.abc import Sequence

from models.contract.reranker import FittedTo
from service.ranking.deadline import Deadline
from service.ranking.degraded import Degraded, RerankError
from service.ranking.types import Head


class NoReranker:
    """Says that it is not configured, and refuses whoever insists."""

    configured = False
    off = "no reranker is configured"
    description = None

    def mismatch(self, live: FittedTo) -> str:
        """Nothing is fitted to anything here."""
        return ""

    async def rerank(self, head: Head, deadline: Deadline) -> Sequence[int]:
        raise RerankError("no reranker is configured", Degraded.RERANK_OFF)
