"""A tuned reranker, as the jobs' own tests have it, and a ledger of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from research.test_set_ledger import Ledger
from tests.offline.reranking.conftest import cheap, tuned

__all__ = ["cheap", "tuned"]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "test-looks.jsonl")
