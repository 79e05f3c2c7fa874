"""Decisions of a model's tokenizer about a prompt: its chat frame as plain text, and the tokens of the two answers.

No torch in here. The service repeats the look-up of the tokens with the tokenizer that is served, and compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.contract.prompts import PromptParts, RerankPrompt
from offline.data.catalogue import DataError

_MARK = "\u241f"  # stands for the user's turn; no chat format is made of it


def frame_as_chat(prompt: RerankPrompt, tokenizer: Any, instruction: str) -> RerankPrompt:
    """The prompt in the tokenizer's chat format, with the answer where the assistant's turn begins.

    A format without a system message gets the instruction in the user's turn; one that can think is asked not to
    (landscape: a model that opens its thoughts gives no verdict). DataError if the tokenizer has no chat format.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError('the model has no chat format: set [reranking] frame = "plain"')
    text = _rendered(tokenizer, [{"role": "system", "content": instruction}, {"role": "user", "content": _MARK}])
    if text is None or instruction not in text:
        text = _rendered(tokenizer, [{"role": "user", "content": f"{instruction}\n{_MARK}"}])
    if text is None or text.count(_MARK) != 1:
        raise DataError('the model\'s chat format is not understood: set [reranking] frame = "plain"')
    opening, closing = text.split(_MARK)
    beginning = tokenizer.bos_token or ""
    adds_beginning = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    if beginning and opening.startswith(beginning) and adds_beginning:
        opening = opening.removeprefix(beginning)  # the tokenizer, here and on the server, puts one there itself
    update = {"opening": opening, "closing": closing, "yes": prompt.yes.strip(), "no": prompt.no.strip()}
    return RerankPrompt.model_validate({**prompt.model_dump(), **update})


def tokens_of(tokenizer: Any, prompts: Sequence[PromptParts]) -> list[list[int]]:
    """Token ids of prompts: of the user block with what the tokenizer adds in front, then of the candidate block.

    The prompts are cut into tokens one by one, as a server that keeps prefixes does.
    """
    if not prompts:
        return []
    users = tokenizer([prompt.user for prompt in prompts], return_attention_mask=False)["input_ids"]
    candidates = tokenizer(
        [prompt.candidate for prompt in prompts], add_special_tokens=False, return_attention_mask=False
    )["input_ids"]
    return [[*user, *candidate] for user, candidate in zip(users, candidates, strict=True)]


def label_ids(tokenizer: Any, prompt: RerankPrompt) -> tuple[int, int]:
    """The tokens that begin the answers ``prompt.yes`` and ``prompt.no`` right after a prompt.

    DataError unless each adds to the end of a prompt and leaves its tokens as they are, and they are two. Words that do
    not are tried with, or without, a blank before them by ``spell_answers``.
    """
    end = prompt.candidate_block("x")
    before = _plain(tokenizer, end)
    labels = []
    for word in (prompt.yes, prompt.no):
        whole = _plain(tokenizer, end + word)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise DataError(f"{word!r} does not continue the prompt in tokens of its own")
        labels.append(whole[len(before)])
    if labels[0] == labels[1]:
        raise DataError(f"{prompt.yes!r} and {prompt.no!r} begin with the same token")
    return labels[0], labels[1]


def spell_answers(tokenizer: Any, prompt: RerankPrompt) -> RerankPrompt:
    """The prompt with its answers spelled as they continue it: as they are, without a blank in front, or with one."""
    problem: DataError | None = None
    for blank in (None, "", " "):
        update = {} if blank is None else {name: blank + getattr(prompt, name).strip() for name in ("yes", "no")}
        candidate = RerankPrompt.model_validate({**prompt.model_dump(), **update})
        try:
            label_ids(tokenizer, candidate)
        except DataError as error:
            problem = problem or error
        else:
            return candidate
    raise problem or DataError("no spelling of the answers was tried")


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str | None:
    """None if the chat format refuses these messages; formats raise what they like."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (TemplateError, ValueError):
        return None
    return str(text)


def _plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
