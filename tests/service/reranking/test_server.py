"""Probabilities from a server of vLLM's routes: by scoring, by completions, and never out of nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from models.contract.prompts import PromptParts
from service.ranking.degraded import RerankError
from service.reranking.server import ModelServer
from tests.service.conftest import eventually
from tests.service.reranking.model_server import NO, YES, ModelServerDouble

PROMPTS = [PromptParts("user 1\n", "film a"), PromptParts("user 1\n", "film d"), PromptParts("user 2\n", "film b")]
LABELS = (YES, NO)


async def test_probabilities_come_in_the_order_of_the_prompts(server: ModelServer, double: ModelServerDouble) -> None:
    probabilities = await server.probabilities(PROMPTS, LABELS)
    assert probabilities.dtype == np.float32
    assert probabilities.tolist() == pytest.approx([0.2, 0.8, 0.4])
    asked = [body for route, body in double.requests if route == "/generative_scoring"]
    assert sorted((body["query"], body["items"]) for body in asked) == [
        ("user 1\n", ["film a", "film d"]),
        ("user 2\n", ["film b"]),
    ]
    assert asked[0]["label_token_ids"] == [YES, NO]
    assert asked[0]["model"] == "tiny"


async def test_prompts_of_many_users_take_turns(double: ModelServerDouble) -> None:
    double.delay = 0.05
    server = ModelServer(double.url, "tiny", at_once=1)
    assert (await server.probabilities(PROMPTS, LABELS)).tolist() == pytest.approx([0.2, 0.8, 0.4])
    assert double.most_running == 1
    await server.close()


async def test_a_server_that_does_not_score_completes(server: ModelServer, double: ModelServerDouble) -> None:
    double.scores = False
    for _ in range(2):
        assert (await server.probabilities(PROMPTS, LABELS)).tolist() == pytest.approx([0.2, 0.8, 0.4], abs=1e-6)
    routes = [route for route, _ in double.requests]
    assert routes.count("/generative_scoring") <= 2  # asked once, per group of prompts
    assert routes[-1] == "/v1/completions"


async def test_labels_are_those_of_the_served_tokenizer(server: ModelServer, double: ModelServerDouble) -> None:
    assert await server.label_ids("Answer:", " Yes", " No") == (YES, NO)
    with pytest.raises(RerankError, match="begin with the same token"):
        await server.label_ids("Answer:", " Maybe", " Perhaps")
    double.tokens = {":": 7, ": Yes": YES, ": No": NO}
    with pytest.raises(RerankError, match="does not continue the prompt"):
        await server.label_ids("Answer:", " Yes", " No")


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"data": []},
        {"data": [{"index": 0, "score": 0.5}]},
        {"data": [{"index": at, "score": score} for at, score in enumerate((0.5, float("nan")))]},
        {"data": [{"index": at, "score": score} for at, score in enumerate((0.5, 1.5))]},
        {"data": [{"index": at, "score": "high"} for at in range(2)]},
        {"data": None},
        {"data": [{"index": at, "score": 0.5} for at in (0.0, float("inf"))]},
        {"data": [{"index": at, "score": 10**400} for at in range(2)]},
    ],
)
async def test_what_is_no_probability_of_each_prompt_is_no_verdict(
    server: ModelServer, double: ModelServerDouble, reply: dict[str, Any]
) -> None:
    double.reply = reply
    with pytest.raises(RerankError):
        await server.probabilities(PROMPTS[:2], LABELS)


@pytest.mark.parametrize(
    "likeliest", [{}, {f"token_id:{YES}": -0.1}, {f"token_id:{NO}": -0.1}, {"Yes": -0.1, "No": -0.2}]
)
async def test_a_label_that_is_not_among_the_likeliest_is_no_verdict(
    server: ModelServer, double: ModelServerDouble, likeliest: dict[str, float]
) -> None:
    double.scores = False
    await server.probabilities(PROMPTS[:1], LABELS)
    double.reply = {"choices": [{"index": 0, "logprobs": {"top_logprobs": [likeliest]}}]}
    with pytest.raises(RerankError, match="no verdict"):
        await server.probabilities(PROMPTS[:1], LABELS)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_error_is_told_with_its_status(server: ModelServer, double: ModelServerDouble, status: int) -> None:
    double.status = status
    with pytest.raises(RerankError, match=f"answered {status}"):
        await server.probabilities(PROMPTS, LABELS)


async def test_a_model_that_is_not_served_is_no_missing_route(server: ModelServer, double: ModelServerDouble) -> None:
    double.status = 404
    double.reply = None
    with pytest.raises(RerankError, match="404"):
        await server.probabilities(PROMPTS, LABELS)


async def test_a_server_that_is_not_there_is_an_error() -> None:
    gone = ModelServer("http://127.0.0.1:9", "tiny", at_once=4)
    with pytest.raises(RerankError, match="ConnectError"):
        await gone.probabilities(PROMPTS, LABELS)
    await gone.close()


async def test_the_key_is_sent(double: ModelServerDouble) -> None:
    double.key = "secret"
    with_key, without = ModelServer(double.url, "tiny", "secret", at_once=4), ModelServer(double.url, "tiny", at_once=4)
    assert len(await with_key.probabilities(PROMPTS, LABELS)) == 3
    with pytest.raises(RerankError, match="401"):
        await without.probabilities(PROMPTS, LABELS)
    await with_key.close()
    await without.close()


async def test_who_gives_up_can_ask_again(server: ModelServer, double: ModelServerDouble) -> None:
    double.delay = 60
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await server.probabilities(PROMPTS, LABELS)
    await eventually(lambda: double.running == 2)  # both groups had been sent
    double.delay = 0
    assert len(await server.probabilities(PROMPTS, LABELS)) == 3
    double.release()
    await eventually(lambda: double.running == 0)
