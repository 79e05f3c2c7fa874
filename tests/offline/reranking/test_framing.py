"""Chat frames as plain text, and the tokens of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from models.contract.prompts import Rated, RerankPrompt
from offline.data.catalogue import DataError
from offline.reranking.framing import frame_as_chat, label_ids, spell_answers, tokens_of
from tests.offline.reranking.fakes import PROMPT, model

CHAT = (
    "{% for one in messages %}<|im_start|>{{ one.role }}\n{{ one.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def chat(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    return tokenizer


def test_the_frame_is_written_out_and_thinking_is_switched_off(chat: Any) -> None:
    prompt = frame_as_chat(PROMPT, chat, "Judge.")
    assert prompt.opening == "<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n"
    assert prompt.closing == "<|im_end|>\n<|im_start|>assistant\n<think></think>"
    assert (prompt.yes, prompt.no) == ("Yes", "No")
    assert prompt.history == PROMPT.history


def test_a_format_without_a_system_message_gets_the_instruction_in_the_users_turn(
    chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "chat_template", NO_SYSTEM)
    assert frame_as_chat(PROMPT, chat, "Judge.").opening == "<|im_start|>user\nJudge.\n"


def test_a_model_without_a_chat_format_says_so(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="frame"):
        frame_as_chat(PROMPT, tokenizer, "Judge.")


def test_the_answers_tokens_continue_the_prompt(tokenizer: Any) -> None:
    yes, no = label_ids(tokenizer, PROMPT)
    assert tokenizer.convert_ids_to_tokens([yes, no]) == ["Yes", "No"]


def test_answers_that_are_one_token_are_refused(tokenizer: Any) -> None:
    unknown = RerankPrompt.model_validate({**PROMPT.model_dump(), "yes": " Ja", "no": " Nein"})
    with pytest.raises(DataError, match="same token"):
        label_ids(tokenizer, unknown)
    with pytest.raises(DataError, match="same token"):
        spell_answers(tokenizer, unknown)


def test_answers_are_spelled_as_the_tokenizer_continues_the_prompt() -> None:
    class Sticky:
        """Glues a word to a colon before it; with a blank between, both keep their tokens."""

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [sum(word.encode()) for word in text.split(" ")]}

    prompt = RerankPrompt.model_validate({**PROMPT.model_dump(), "yes": "Yes", "no": "No"})
    with pytest.raises(DataError, match="does not continue"):
        label_ids(Sticky(), prompt)
    assert (spell_answers(Sticky(), prompt).yes, spell_answers(Sticky(), prompt).no) == (" Yes", " No")


def test_parts_give_the_tokens_of_the_whole_text(tokenizer: Any) -> None:
    prompts = [PROMPT.parts({"occupation": "writer"}, [Rated("Film 3", 4.0)], f"Film {at}") for at in range(3)]
    assert tokens_of(tokenizer, prompts) == [tokenizer(str(prompt))["input_ids"] for prompt in prompts]
    assert tokens_of(tokenizer, []) == []
