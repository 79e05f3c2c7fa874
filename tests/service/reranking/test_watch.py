"""Canaries: off until they are answered, off after two failures, on again by itself."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from service.reranking import watch as module
from service.reranking.server import ModelServer
from service.reranking.watch import DOUBTFUL, CanaryWatch
from tests.service.conftest import eventually
from tests.service.reranking.conftest import manifest
from tests.service.reranking.model_server import Likes, ModelServerDouble


@pytest.fixture
async def watch(server: ModelServer) -> CanaryWatch:
    return CanaryWatch(server, manifest(), 60.0)


async def test_nothing_is_trusted_before_the_canaries_answered(watch: CanaryWatch) -> None:
    assert watch.off == "the canaries were not asked yet"
    await watch.check()
    assert watch.off == ""


async def test_two_failures_switch_off_and_one_success_on(watch: CanaryWatch, double: ModelServerDouble) -> None:
    await watch.check()
    double.status = 500
    await watch.check()
    assert watch.off == ""
    await watch.check()
    assert "answered 500" in watch.off
    double.status = 200
    await watch.check()
    assert watch.off == ""


@pytest.mark.parametrize(
    ("answer", "says"),
    [(lambda _: 0.5, "all canaries are answered"), (lambda text: 0.9 if "film a" in text else 0.1, "wrong order")],
)
async def test_answers_that_are_wrong_are_failures(
    watch: CanaryWatch, double: ModelServerDouble, answer: Likes, says: str
) -> None:
    await watch.check()
    double.likes = answer
    for _ in range(2):
        await watch.check()
    assert says in watch.off


async def test_another_tokenizer_is_another_model(watch: CanaryWatch, double: ModelServerDouble) -> None:
    double.tokens = {" Yes": 1, " No": 2}
    await watch.check()
    assert "another model is served" in watch.off


async def test_whatever_goes_wrong_is_a_failure(
    watch: CanaryWatch, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watch.check()

    async def probabilities(*_: object) -> None:
        raise ArithmeticError("nobody thought of that")

    monkeypatch.setattr(server, "probabilities", probabilities)
    for _ in range(2):
        await watch.check()
    assert watch.off == "ArithmeticError: nobody thought of that"


async def test_a_server_that_hangs_fails_too(
    watch: CanaryWatch, double: ModelServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.2)
    double.delay = 60
    await watch.check()
    assert "no answer to the canaries" in watch.off


async def test_the_watch_comes_back_by_itself(
    server: ModelServer, double: ModelServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.02)
    watch = CanaryWatch(server, manifest(), 3600.0)
    task = asyncio.create_task(watch.watch())
    await eventually(lambda: not watch.off)
    double.status = 500
    for _ in range(DOUBTFUL):
        watch.failed()  # requests notice, long before the next look is due
    await eventually(lambda: watch.off)
    double.status = 200
    await eventually(lambda: not watch.off)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
