"""Tuning a tiny random model: it learns the answer, only the updates learn, and it goes on where it was killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.prompts import PromptParts, Rated
from offline.reranking import tune as tuning
from offline.reranking.framing import label_ids, tokens_of
from offline.reranking.tune import ADAPTER, DONE, MODEL, tune
from tests.offline.reranking.fakes import PROMPT, TUNING, labeller, model

CONFIG = TUNING.model_copy(update={"epochs": 6})


def asked() -> tuple[list[PromptParts], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Liked if the history says five stars."""
    prompts = [PROMPT.parts({}, [Rated("Film 3", 5.0 if at % 2 else 1.0)] * 3, f"Film {at}") for at in range(40)]
    return prompts, np.arange(40) % 2 == 1


def tuned(base: Path, target: Path) -> list[float]:
    untuned = labeller(base)
    prompts, liked = asked()
    yes, no = label_ids(untuned.tokenizer, PROMPT)
    return tune(untuned, tokens_of(untuned.tokenizer, prompts), np.where(liked, yes, no), CONFIG, 1, target)


def odds(folder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    tuned_model = labeller(folder)
    prompts, _ = asked()
    log_odds = np.zeros(len(prompts), np.float32)
    for rows, scores in tuned_model.log_odds(prompts, label_ids(tuned_model.tokenizer, PROMPT)):
        log_odds[rows] = scores
    return log_odds


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def target(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    losses = tuned(base, folder)
    assert losses[-1] < losses[0]
    return folder


def test_what_is_saved_is_a_checkpoint_that_answers_better(base: Path, target: Path) -> None:
    _, liked = asked()
    before, after = odds(base), odds(target / MODEL)
    assert after[liked].mean() - after[~liked].mean() > before[liked].mean() - before[~liked].mean() + 1.0
    assert {path.name for path in target.iterdir()} == {MODEL, ADAPTER, DONE}


def test_only_the_named_projections_were_changed(base: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM

    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (base, target / MODEL))
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_updates_by_themselves_give_the_same_model(base: Path, target: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), target / ADAPTER).merge_and_unload()
    saved = AutoModelForCausalLM.from_pretrained(target / MODEL).state_dict()
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, saved[name], rtol=1e-4, atol=1e-5)


def test_a_second_call_tunes_nothing(base: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "adapted", None)
    assert tuned(base, target) == json.loads((target / DONE).read_text())["losses"]


def test_a_killed_run_goes_on_and_ends_where_the_other_did(
    base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = tuning._step, []

    def killed(*arguments: object) -> float:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            tuned(base, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tuning.pt"}
    losses = tuned(base, tmp_path)
    assert losses == pytest.approx(json.loads((target / DONE).read_text())["losses"])
    np.testing.assert_allclose(odds(tmp_path / MODEL), odds(target / MODEL), atol=1e-5)


def test_the_loss_is_of_the_answer_alone(base: Path) -> None:
    """Tokens of the prompt are no targets: two prompts with the same last state have the same loss."""
    untuned = labeller(base)
    prompts, liked = asked()
    yes, no = label_ids(untuned.tokenizer, PROMPT)
    tokens = tokens_of(untuned.tokenizer, prompts)
    with torch.inference_mode():
        scores = torch.stack([untuned.model(input_ids=torch.tensor([row])).logits[0, -1] for row in tokens])
    expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(np.where(liked, yes, no)))
    adapted = tuning.adapted(untuned, CONFIG.model_copy(update={"dropout": 0.0}))
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.0)
    loss = tuning._step(untuned, adapted, tokens, np.where(liked, yes, no), CONFIG, optimizer)
    assert loss == pytest.approx(float(expected), rel=1e-4)
