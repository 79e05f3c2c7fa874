"""The local back end: weights that are not what they should be, and the real model."""

import threading
from pathlib import Path

import gguf
import pytest
import torch

from offline.llm import local, weights
from offline.llm.choices import ChoiceAnswer
from offline.llm.local import LocalBackend
from offline.llm.protocol import PermanentError, Prompt, TransientError, UnusableBackendError
from offline.llm.weights import Weights
from tests.offline.knowledge.marc.fakes import tiny_model

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


TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }} {% endfor %}{% if add_generation_prompt %}film {% endif %}"
)


def tiny_generator(folder: Path, **tokenizer: str) -> local._Generator:
    from transformers import AutoTokenizer

    tiny_model(folder, bos=False)
    words = AutoTokenizer.from_pretrained(folder)
    words.chat_template, words.eos_token = TEMPLATE, "<pad>"
    words.save_pretrained(folder)
    return local._Generator(folder, "float32", threading.Event())


def chosen(text: str, *before: tuple[str, str], choices: tuple[str, ...] = ("love", "war")) -> Prompt:
    return Prompt((*before, ("user", text)), 1, choices=choices)


def test_choices_weigh_what_the_whole_prompt_makes_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is computed once for several prompts: the same as one forward pass of each alone."""
    generator = tiny_generator(tmp_path / "model")
    shared = (("user", "a film about space"), ("assistant", "quiet drama"))
    prompts = [chosen(text, *shared) for text in ("likes comedy", "likes", "and loud and quiet drama", "comedy")]
    answers = generator.choose(prompts)
    monkeypatch.setattr(local, "PADDED_TOKENS", 1)
    assert [answer.prompt_tokens for answer in answers] == [9, 8, 12, 8]
    for prompt, answer, alone in zip(prompts, answers, generator.choose(prompts), strict=True):
        (text,) = generator._texts([prompt])
        ids = torch.tensor([generator._tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            every = generator._model(ids).logits[0, -1].softmax(-1)
        expected = [float(every[generator._tokenizer.convert_tokens_to_ids(choice)]) for choice in prompt.choices]
        for weighed in (answer, alone):
            parsed = ChoiceAnswer.parse(weighed.text, prompt.choices)
            assert parsed is not None
            assert parsed.probabilities == pytest.approx(expected, rel=1e-4)
            assert parsed.unlisted == 0
            assert weighed.completion_tokens == 1


def test_equal_prompts_and_one_prompt_are_weighed_too(tmp_path: Path) -> None:
    generator = tiny_generator(tmp_path / "model")
    prompt = chosen("space")
    weighed = [ChoiceAnswer.parse(answer.text, prompt.choices) for answer in generator.choose([prompt] * 3)]
    alone = ChoiceAnswer.parse(generator.choose([prompt])[0].text, prompt.choices)
    assert alone is not None
    for answer in weighed:
        assert answer is not None
        assert answer.probabilities == pytest.approx(alone.probabilities, rel=1e-4)


def test_choices_that_the_tokenizer_does_not_tell_apart_are_unusable(tmp_path: Path) -> None:
    generator = tiny_generator(tmp_path / "model")
    with pytest.raises(UnusableBackendError, match="does not tell the answers seven, eight apart"):
        generator.choose([chosen("space", choices=("seven", "eight"))])
    with pytest.raises(PermanentError, match="exceed the context of 64"):
        generator.choose([chosen("space " * 70)])


async def test_a_back_end_keeps_the_order_of_prompts_of_both_kinds(tmp_path: Path) -> None:
    tiny_generator(tmp_path / "model")
    backend = LocalBackend(tmp_path / "unused", tmp_path / "model", precision="float32")
    of_one, of_other = (("user", "space"), ("assistant", "a")), (("user", "war"), ("assistant", "a"))
    prompts = [chosen("film", *of_one), chosen("likes", *of_one), chosen("film", *of_other), Prompt(of_one[:1], 3)]
    together = await backend.complete(prompts)
    assert [(await backend.complete([prompt]))[0].prompt_tokens for prompt in prompts] == [
        answer.prompt_tokens for answer in together
    ]
    assert [answer.completion_tokens for answer in together[:3]] == [1, 1, 1]
    assert ChoiceAnswer.parse(together[3].text, ("love", "war")) is None
    await backend.close()


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

    digits = [
        Prompt((*film.messages, ("assistant", "Yes."), ("user", "1 to 5?")), 1, choices=tuple("12345"))
        for film in FILMS
    ]
    for choice in await backend.complete(digits):
        weighed = ChoiceAnswer.parse(choice.text, digits[0].choices)
        assert weighed is not None
        assert 0 < weighed.mass <= 1
        assert choice.completion_tokens == 1

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
