"""Scores by label tokens: those of the whole model, in any company, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.arrays import FloatArray
from models.contract.prompts import PromptParts, Rated
from offline.data.catalogue import DataError
from offline.reranking.framing import label_ids, tokens_of
from offline.reranking.scoring import Labeller, stored_log_odds
from tests.offline.reranking.fakes import PROMPT, labeller, model

Scores = Iterator[tuple[list[int], FloatArray]]

PROMPTS = [
    PROMPT.parts({"occupation": "writer"}, [Rated(f"Film {at}", 4.0)] * (at % 4), f"Film {at}") for at in range(20)
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Labeller:
    return labeller(model(tmp_path_factory.mktemp("model")))


def scored(tiny: Labeller, prompts: Sequence[PromptParts]) -> FloatArray:
    odds = np.full(len(prompts), np.nan, np.float32)
    for rows, scores in tiny.log_odds(prompts, label_ids(tiny.tokenizer, PROMPT)):
        odds[rows] = scores
    return odds


def test_the_score_is_the_difference_of_the_models_two_scores(tiny: Labeller) -> None:
    yes, no = label_ids(tiny.tokenizer, PROMPT)
    expected = []
    for tokens in tokens_of(tiny.tokenizer, PROMPTS):
        with torch.inference_mode():
            scores = tiny.model(input_ids=torch.tensor([tokens])).logits[0, -1]
        expected.append(float(scores[yes] - scores[no]))
    np.testing.assert_allclose(scored(tiny, PROMPTS), expected, atol=1e-4)


def test_the_score_of_a_prompt_does_not_depend_on_its_company(tiny: Labeller) -> None:
    together = scored(tiny, PROMPTS)
    alone = np.concatenate([scored(tiny, [prompts]) for prompts in PROMPTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert len(np.unique(together)) == len(PROMPTS), "float32 keeps scores apart"


def test_a_model_that_caps_its_scores_is_refused(tiny: Labeller, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(tiny.model).forward

    def capped(self: object, *arguments: object, **options: object) -> object:
        output = forward(self, *arguments, **options)
        output.logits = 0.1 * torch.tanh(output.logits)
        return output

    monkeypatch.setattr(type(tiny.model), "forward", capped)
    with pytest.raises(DataError, match="language head"):
        tiny.head_rows((4, 5))


def test_a_prompt_is_read_once(tiny: Labeller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = label_ids(tiny.tokenizer, PROMPT)
    first = stored_log_odds(tmp_path, tiny, labels, PROMPTS[:12], "some")
    asked: list[int] = []
    real = Labeller.log_odds

    def counted(
        self: Labeller, prompts: Sequence[PromptParts], labels: tuple[int, int]
    ) -> Iterator[tuple[list[int], FloatArray]]:
        asked.append(len(prompts))
        return real(self, prompts, labels)

    monkeypatch.setattr(Labeller, "log_odds", counted)
    second = stored_log_odds(tmp_path, tiny, labels, [*PROMPTS, PROMPTS[0]], "all")
    np.testing.assert_array_equal(second[:12], first)
    assert second[-1] == second[0]
    stored_log_odds(tmp_path, tiny, labels, PROMPTS, "again")
    assert asked == [8]


def test_another_model_has_scores_of_its_own(tiny: Labeller, tmp_path: Path) -> None:
    labels = label_ids(tiny.tokenizer, PROMPT)
    other = Labeller("other", tiny.tokenizer, tiny.model, tiny.padded_tokens)
    for each in (tiny, other):
        stored_log_odds(tmp_path, each, labels, PROMPTS[:2], "some")
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_what_was_scored_before_a_kill_is_kept(tiny: Labeller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offline.reranking.scoring._BATCHES_A_PASS", 1)
    labels = label_ids(tiny.tokenizer, PROMPT)
    real = Labeller.log_odds

    def killed(
        self: Labeller, prompts: Sequence[PromptParts], labels: tuple[int, int]
    ) -> Iterator[tuple[list[int], FloatArray]]:
        yield next(iter(real(self, prompts, labels)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "log_odds", killed)
        with pytest.raises(KeyboardInterrupt):
            stored_log_odds(tmp_path, tiny, labels, PROMPTS, "all")
    (path,) = tmp_path.glob("*.npz")
    assert 0 < len(np.load(path)["keys"]) < len(PROMPTS)
    np.testing.assert_allclose(
        stored_log_odds(tmp_path, tiny, labels, PROMPTS, "all"), scored(tiny, PROMPTS), atol=1e-4
    )
