"""How fast a machine is, measured beside a run that may be at work: nothing of it enters the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from offline.data.dataset import open_dataset
from offline.jobs.rates import Work, measure
from offline.llm.account import open_accounts
from offline.llm.protocol import UnusableBackendError
from offline.llm.session import LLMSession
from tests.offline.pipeline import Pipeline

WORK = Work(texts=0, prompts=100)


def test_measuring_is_no_run(installed: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    job, batches = installed.job, []

    def complete(self: LLMSession, prompts: Sequence[Any]) -> list[Any]:
        assert open_accounts(job.llm) == {}, "a refresh that starts now would take it for a killed run"
        batches.append(len(prompts))
        return []

    monkeypatch.setattr(LLMSession, "complete_batch", complete)
    catalogue = open_dataset(job.config.data, job.raw).catalogue()
    before = len(installed.runs())
    assert measure(job, catalogue, WORK).prompts is not None
    assert batches == [1, min(8, len(catalogue.items))]
    assert len(installed.runs()) == before


def test_without_a_model_the_time_is_unknown_and_says_why(installed: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: LLMSession, prompts: Sequence[Any]) -> list[Any]:
        raise UnusableBackendError("no weights here")

    monkeypatch.setattr(LLMSession, "complete_batch", absent)
    catalogue = open_dataset(installed.job.config.data, installed.job.raw).catalogue()
    (line,) = measure(installed.job, catalogue, WORK).lines(WORK)
    assert "for an unknown time (no weights here)" in line
