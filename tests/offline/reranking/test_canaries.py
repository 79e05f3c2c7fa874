"""Canaries: nobody's history, an order that holds, and the same ones each time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from models.contract.prompts import Blocks
from offline.reranking.canaries import canaries
from offline.reranking.rows import PromptBuilder
from tests.offline.reranking.fakes import PROMPT, prompts
from tests.synthetic import synthetic


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    folder = tmp_path_factory.mktemp("canaries")
    return prompts(synthetic(folder, users=20, items=25, events=20), folder)


def hashed(blocks: Sequence[Blocks]) -> FloatArray:
    return np.array([hashlib.sha256(str(one).encode()).digest()[0] / 256 for one in blocks], np.float32)


def test_each_is_a_likely_and_an_unlikely_prompt_about_made_up_users(told: PromptBuilder) -> None:
    found = canaries(told, PROMPT, 3, 5, 1, hashed)
    assert len(found) == 3
    for one in found:
        assert one.probabilities[0] > one.probabilities[1]
        assert hashed(one.prompts).tolist() == list(one.probabilities)
        for blocks, stars in zip(one.prompts, ("345", "12"), strict=True):
            rated = [line[-7] for line in blocks.user.splitlines() if line.endswith("stars")]
            assert len(rated) == PROMPT.history
            assert set(rated) <= set(stars)
            assert "occupation" not in blocks.user
    assert canaries(told, PROMPT, 3, 5, 1, hashed) == found
    assert canaries(told, PROMPT, 3, 5, 2, hashed) != found


def test_a_model_that_answers_everything_alike_has_none(told: PromptBuilder) -> None:
    assert canaries(told, PROMPT, 3, 5, 1, lambda blocks: np.full(len(blocks), 0.5, np.float32)) == ()
