"""A tuned reranker, as the jobs' own tests have it."""

from __future__ import annotations

from tests.offline.reranking.conftest import cheap, ledger, tuned

__all__ = ["cheap", "ledger", "tuned"]
