"""The reranker's order, its gates and its limits, against a server that answers what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.events import EVENT_DTYPE, item_hash
from models.contract.prompts import Rated
from models.contract.reranker import FILE, HistoryBand, RerankerError
from service.ranking.deadline import Deadline
from service.ranking.degraded import RerankError
from service.ranking.types import Head, UserState
from service.reranking.server import ModelServer
from service.reranking.vllm import Gates, VllmReranker, read_reranker
from service.reranking.watch import CanaryWatch
from service.telemetry import Telemetry
from tests.service.reranking.conftest import IDS, PROMPT, items, likes, manifest, written
from tests.service.reranking.model_server import ModelServerDouble

GATES = Gates(slots=2, least_seconds=0.0)
SCORES = np.array([0.6, 0.55, 0.5, 0.45], np.float32)


def history(*ids: str, value: float = 5.0) -> UserState:
    events = [(item_hash(item), at, 0, value) for at, item in enumerate(ids)]
    return UserState(features={"gender": "F"}, events=np.array(events, EVENT_DTYPE))


def head(**changes: Any) -> Head:
    return replace(Head(list(IDS), SCORES, history("a", "b", "c")), **changes)


class Built:
    """A reranker, and what it is made of."""

    def __init__(self, double: ModelServerDouble, gates: Gates = GATES, **changes: object) -> None:
        described = manifest(**changes)
        self.server = ModelServer(double.url, "tiny", at_once=2)
        self.watch = CanaryWatch(self.server, described, 60.0)
        self.telemetry = Telemetry()
        self.reranker = VllmReranker(self.server, described, items(), self.watch, gates, self.telemetry)

    def gated(self, reason: str) -> float:
        return self.telemetry.registry.get_sample_value("lorank_rerank_gated_total", {"reason": reason}) or 0.0


@pytest.fixture
async def built(double: ModelServerDouble) -> AsyncIterator[Any]:
    rerankers: list[Built] = []

    async def build(gates: Gates = GATES, **changes: object) -> VllmReranker:
        latest = Built(double, gates, **changes)
        rerankers.append(latest)
        await latest.watch.check()
        assert latest.watch.off == ""
        double.requests.clear()
        build.last = latest  # type: ignore[attr-defined]
        return latest.reranker

    yield build
    for reranker in rerankers:
        await reranker.server.close()


async def test_verdicts_and_scores_are_mixed_by_weight(built: Any) -> None:
    reranker = await built()
    assert await reranker.rerank(head(weight=1.0), Deadline(10)) == [3, 2, 1, 0]
    verdicts = np.array([likes(f"film {item}") for item in IDS])
    mixed = np.log(SCORES / (1 - SCORES)) + np.log(verdicts / (1 - verdicts))
    assert await reranker.rerank(head(), Deadline(10)) == np.argsort(-mixed).tolist()


async def test_the_prompt_is_the_contracts(built: Any, double: ModelServerDouble) -> None:
    reranker = await built()
    await reranker.rerank(head(), Deadline(10))
    history = [Rated("F b", 5.0), Rated("F c", 5.0)]
    expected = [str(PROMPT.parts({"gender": "F"}, history, f"film {item}")) for item in IDS]
    assert double.prompts() == expected
    assert len(double.requests) == 1  # one user block, computed once


async def test_relevant_histories_differ_by_candidate(built: Any, double: ModelServerDouble) -> None:
    relevant = PROMPT.model_copy(update={"selection": "relevant", "history": 1})
    reranker = await built(prompt=relevant)
    await reranker.rerank(head(), Deadline(10))
    by_candidate = {prompt[prompt.rindex("film ") :][:6]: prompt for prompt in double.prompts()}
    for item in "abc":
        assert f"F {item}: 5 stars" in by_candidate[f"film {item}"]


async def test_items_that_the_reranker_does_not_know_keep_their_score(built: Any, double: ModelServerDouble) -> None:
    reranker = await built()
    some = head(ids=["x", "a", "y", "d"], weight=1.0)
    assert await reranker.rerank(some, Deadline(10)) == [3, 0, 2, 1]  # .8, .6, .5, .2
    assert len(double.prompts()) == 2
    unknown = head(ids=["x", "y", "z", "a"])
    assert list(await reranker.rerank(unknown, Deadline(10))) == [0, 1, 2, 3]
    assert built.last.gated("unknown") == 1


async def test_gates(built: Any, double: ModelServerDouble) -> None:
    reranker = await built(band=HistoryBand(shortest=1, longest=2))
    assert list(await reranker.rerank(head(), Deadline(10))) == [0, 1, 2, 3]
    assert built.last.gated("history") == 1
    assert double.requests == []
    assert await reranker.rerank(head(user=history("a", "b"), weight=1.0), Deadline(10)) == [3, 2, 1, 0]
    assert await reranker.rerank(head(forced=True, weight=1.0), Deadline(10)) == [3, 2, 1, 0]
    assert list(await reranker.rerank(head(forced=True, weight=0.0), Deadline(10))) == [0, 1, 2, 3]
    assert built.last.gated("weight") == 1
    no_band = await built(band=None)
    assert list(await no_band.rerank(head(), Deadline(10))) == [0, 1, 2, 3]
    clear = await built(Gates(slots=2, least_seconds=0.0, margin=0.1))
    assert list(await clear.rerank(head(), Deadline(10))) == [0, 1, 2, 3]
    assert built.last.gated("margin") == 1
    close = await built(Gates(slots=2, least_seconds=0.0, margin=5.0))
    assert await close.rerank(head(weight=1.0), Deadline(10)) == [3, 2, 1, 0]


async def failure(reranker: VllmReranker, seconds: float = 10.0) -> str:
    with pytest.raises(RerankError) as caught:
        await reranker.rerank(head(), Deadline(seconds))
    return caught.value.step


async def test_every_failure_has_its_step(built: Any, double: ModelServerDouble) -> None:
    reranker = await built(Gates(slots=2, least_seconds=0.05))
    assert await failure(reranker, 0.04) == "rerank_late"
    assert double.requests == []
    double.status = 500
    assert await failure(reranker) == "rerank_failed"
    double.status = 200
    double.likes = lambda _: 0.5
    assert await failure(reranker) == "rerank_flat"
    double.delay = 60
    assert await failure(reranker, 0.2) == "rerank_late"
    for _ in range(2):
        built.last.watch.off = "broken"
    assert await failure(reranker) == "rerank_off"


async def test_no_more_than_the_slots_are_at_the_server(built: Any, double: ModelServerDouble) -> None:
    reranker = await built()
    double.delay = 0.3
    results = await asyncio.gather(
        *(reranker.rerank(head(weight=1.0), Deadline(10)) for _ in range(64)), return_exceptions=True
    )
    steps = [result.step for result in results if isinstance(result, RerankError)]
    assert steps == ["rerank_busy"] * 62
    assert double.most_running == 2
    assert reranker.description["slots_free"] == 2
    double.delay = 0
    assert await reranker.rerank(head(weight=1.0), Deadline(10)) == [3, 2, 1, 0]


async def test_a_cancelled_request_gives_its_slot_back(built: Any, double: ModelServerDouble) -> None:
    reranker = await built()
    double.delay = 60
    task = asyncio.create_task(reranker.rerank(head(), Deadline(60)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reranker.description["slots_free"] == 2


def test_what_was_tuned_is_read_back(tmp_path: Path) -> None:
    read, stored = read_reranker(written(tmp_path))
    assert read == manifest()
    assert list(stored.ids) == list(IDS)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(RerankerError):
        read_reranker(tmp_path)
