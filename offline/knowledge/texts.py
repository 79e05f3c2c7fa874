"""The text of an item: what the language model is asked about it, and what is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offline.llm.protocol import Prompt


def describe(features: Mapping[str, Any]) -> str:
    """An item in a few words: "Toy Story" (1995; Animation, Children's, Comedy)."""
    details = [str(features["year"])] if features.get("year") else []
    if features.get("genres"):
        details.append(", ".join(features["genres"]))
    title = f'"{features["title"]}"' if features.get("title") else "an untitled film"
    return f"{title} ({'; '.join(details)})" if details else title


def item_prompt(features: Mapping[str, Any], max_tokens: int) -> Prompt:
    """Ask what a film is about and whom it is for, in the manner of KAR's item factual prompt (arXiv 2306.10933)."""
    question = (
        f"Describe the film {describe(features)} in two sentences: "
        "its themes and plot, its mood, and the audience that enjoys it."
    )
    return Prompt(messages=(("user", question),), max_tokens=max_tokens, repetition_penalty=1.05)


def item_text(features: Mapping[str, Any], answer: str) -> str:
    """What is encoded: the facts first, then the answer, so that truncation loses opinion before fact."""
    return f"{describe(features)}. {answer}".strip()
