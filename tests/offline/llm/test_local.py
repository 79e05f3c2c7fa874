"""The local back end: weights that are not what they should be, and the real model."""

import threading
from pathlib import Path

import gguf
import pytest
import torch

from offline.llm import local, weights
from offline.llm.local import LocalBackend
from offline.llm.protocol import PermanentError, Prompt, TransientError, UnusableBackendError
from offline.llm.weights import Weights

FILMS = [
    Prompt((("user", "Describe the film Fargo in one sentence."),), max_tokens=12),
    Prompt((("system", "Answer with one word."), ("user", "Is Toy Story a comedy?")), max_tokens=12),
]


def test_other_weights_under_the_packaged_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PACKAGED_SHA256", "0" * 64)
    with pytest.raises(UnusableBackendError, match="is not the expected smollm2-135m-instruct-q4_1"):
        Weights.find(None).checkpoint(tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PACKAGE", "llm_not_installed")
    with pytest.raises(UnusableBackendError, match="llm-not-installed"):
        Weights.find(None).checkpoint(tmp_path)


def test_a_model_that_is_to_close_computes_no_further_layer() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])

        def forward(self, rows: torch.Tensor, after_the_first: threading.Event | None = None) -> torch.Tensor:
            first = self.layers[0](rows)
            if after_the_first is not None:
                after_the_first.set()
            return torch.as_tensor(self.layers[1](first))

    model, closing = Model(), threading.Event()
    local._end_when(closing, model)
    assert model(torch.ones(1, 2)).shape == (1, 2)
    with pytest.raises(TransientError, match="stopped in the middle"):
        model(torch.ones(1, 2), closing)


@pytest.mark.llm
async def test_the_packaged_model_answers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One load serves all checks: conversion takes most of the time."""
    leftover = tmp_path / "checkpoints" / f".smollm2-135m-instruct.q4_1-{weights.PACKAGED_SHA256[:16]}-bfloat16.partial"
    leftover.mkdir(parents=True)
    (leftover / "half-written").touch()  # by a conversion that was killed
    parsed: list[object] = []

    class CountingReader(gguf.GGUFReader):  # type: ignore[misc]
        def __init__(self, *file: object) -> None:
            parsed.append(file)
            super().__init__(*file)

    monkeypatch.setattr(gguf, "GGUFReader", CountingReader)
    backend = LocalBackend(tmp_path / "checkpoints", batch_size=2)
    first = await backend.complete(FILMS)
    assert capfd.readouterr().err == "", "transformers was not silent"
    assert len(parsed) == 1
    assert gguf.GGUFReader is CountingReader

    assert await backend.complete(FILMS) == first, "greedy, same batch: same answer"
    with monkeypatch.context() as patch:
        patch.setattr(local, "PADDED_TOKENS", 1)
        alone = [(await backend.complete([prompt]))[0] for prompt in FILMS]
        assert await backend.complete(FILMS) == alone, "a batch that is too large is generated in parts"
    assert all(completion.text for completion in first)
    for completion in first:
        assert 1 <= completion.completion_tokens <= 12
        assert "<|im" not in completion.text
    # the template adds a system message of its own where there is none, and a few tokens around each message
    assert 30 < first[0].prompt_tokens < 50
    assert 20 < first[1].prompt_tokens < 40

    long = Prompt(FILMS[0].messages, max_tokens=64)
    mixed = await backend.complete([FILMS[0], long])
    assert mixed[0].completion_tokens == 12
    assert mixed[1].completion_tokens > 12
    assert mixed[1].text.startswith(mixed[0].text)

    greedy = await backend.complete([Prompt(FILMS[0].messages, 30)])
    penalised = await backend.complete([Prompt(FILMS[0].messages, 30, 0.0, 1.8)])
    sampled = await backend.complete([Prompt(FILMS[0].messages, 30, 1.5)])
    assert penalised[0].text != greedy[0].text
    assert sampled[0].text != greedy[0].text
    assert await backend.complete([Prompt(FILMS[0].messages, 30, 1.5)]) == sampled, "the prompts are the seed"

    with pytest.raises(PermanentError, match="exceed the context of 8192"):
        await backend.complete([Prompt((("user", "word " * 100),), max_tokens=8192)])
    await backend.close()

    assert not leftover.exists()
    (folder,) = [entry for entry in (tmp_path / "checkpoints").iterdir() if entry.is_dir()]
    assert weights.PACKAGED_SHA256[:16] in folder.name
    assert not (folder / "half-written").exists()
    again = LocalBackend(tmp_path / "checkpoints", batch_size=2)
    assert await again.complete(FILMS) == first, "the kept checkpoint is the same model"
    await again.close()

    own = LocalBackend(tmp_path / "unused", folder)
    assert own.model_id != backend.model_id
    assert await own.complete(FILMS) == first, "a checkpoint folder of the user's"
    await own.close()
    assert not (tmp_path / "unused").exists()
