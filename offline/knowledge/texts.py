"""The text of an item: what the language model is asked about it, and what is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offline.data.texts import TextsConfig
from offline.llm.protocol import Prompt


def item_prompt(words: TextsConfig, features: Mapping[str, Any], max_tokens: int) -> Prompt:
    """Ask what an item is about and whom it is for, in the manner of KAR's item factual prompt (arXiv 2306.10933)."""
    question = f"Describe the {words.noun} {words.item_text(features)} in two sentences: {words.aspects}."
    return Prompt(messages=(("user", question),), max_tokens=max_tokens, repetition_penalty=1.05)


def item_text(words: TextsConfig, features: Mapping[str, Any], answer: str) -> str:
    """What is encoded: the facts first, then the answer, so that truncation loses opinion before fact."""
    return f"{words.item_text(features)}. {answer}".strip()


def plain_text(words: TextsConfig, features: Mapping[str, Any]) -> str:
    """An item's own text, without any language model: what the plain-text control encodes."""
    return f"{words.item_text(features)}."
