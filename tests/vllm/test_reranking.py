"""What a real server answers to the reranker's prompts is what the jobs measure: same tokens, same probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from bench.vllm_server import VllmServer
from models.contract.prompts import Rated, RerankPrompt
from offline.reranking.calibrate import probability_of
from offline.reranking.framing import frame_as_chat, label_ids, spell_answers, tokens_of
from offline.reranking.scoring import Labeller

FILMS = ("Toy Story", "Heat", "The Big Lebowski", "Alien", "Amélie", "12 Angry Men")


@pytest.fixture(scope="module")
def labeller(checkpoint: Path) -> Labeller:
    return Labeller.load("packaged", checkpoint, "float32", 4096)


@pytest.fixture(scope="module")
def prompt(labeller: Labeller) -> RerankPrompt:
    return spell_answers(
        labeller.tokenizer, frame_as_chat(RerankPrompt(profile_fields=("age",)), labeller.tokenizer, "Judge films.")
    )


def post(server: VllmServer, path: str, body: dict[str, Any]) -> Any:
    url = server.base_url.removesuffix("/v1") + path
    with httpx2.Client(trust_env=False, timeout=120.0) as client:
        return client.post(url, json={"model": server.model, **body}).raise_for_status().json()


def test_a_server_scores_as_the_jobs_do(vllm: VllmServer, labeller: Labeller, prompt: RerankPrompt) -> None:
    labels = label_ids(labeller.tokenizer, prompt)
    history = [Rated(name, float(at % 5 + 1)) for at, name in enumerate(FILMS)]
    asked = [prompt.parts({"age": 25}, history, f'"{name}" (1995; Drama)') for name in FILMS]
    expected = np.zeros(len(asked), np.float32)
    for rows, odds in labeller.log_odds(asked, labels):
        expected[rows] = probability_of(odds)
    body = {"query": asked[0].user, "items": [parts.candidate for parts in asked], "label_token_ids": list(labels)}
    answered = [answer["score"] for answer in post(vllm, "/generative_scoring", body)["data"]]
    # vLLM rounds the scores of all tokens to bfloat16 before it compares two of them: .5 exactly is a common answer
    np.testing.assert_allclose(answered, expected, atol=0.1)


def test_a_server_cuts_prompts_into_the_same_tokens(vllm: VllmServer, labeller: Labeller, prompt: RerankPrompt) -> None:
    parts = prompt.parts({"age": 25}, [Rated("Amélie", 4.0)], '"Heat" (1995)')
    whole = post(vllm, "/tokenize", {"prompt": str(parts)})["tokens"]
    assert [whole] == tokens_of(labeller.tokenizer, [parts])
    end = post(vllm, "/tokenize", {"prompt": parts.candidate + prompt.yes, "add_special_tokens": False})["tokens"]
    assert end[-1] == label_ids(labeller.tokenizer, prompt)[0]
