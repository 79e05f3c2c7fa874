"""Questions to the language model about items and closed partitions, and the texts that are encoded of its answers.

Titles are data: they are quoted inside one sentence and can break out of nothing, because every partition is a
conversation of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offline.data.texts import TextsConfig
from offline.llm.protocol import Prompt


def item_prompt(vocabulary: TextsConfig, features: Mapping[str, Any], max_tokens: int) -> Prompt:
    """Ask what an item is about and whom it is for, in the manner of KAR's item factual prompt (arXiv 2306.10933)."""
    question = (
        f"Describe the {vocabulary.noun} {vocabulary.item_text(features)} in two sentences: {vocabulary.aspects}."
    )
    return Prompt(messages=(("user", question),), max_tokens=max_tokens, repetition_penalty=1.05)


def item_text(vocabulary: TextsConfig, features: Mapping[str, Any], answer: str) -> str:
    """The text that is encoded: the facts first, then the answer, so that truncation loses opinion before fact."""
    return f"{vocabulary.item_text(features)}. {answer}".strip()


def plain_text(vocabulary: TextsConfig, features: Mapping[str, Any]) -> str:
    """An item's own text, without any language model: for the plain-text control."""
    return f"{vocabulary.item_text(features)}."


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition in the words of its data set: names of its items in order of arrival, which of them were liked, and
    the topics (genres) of each."""

    names: Sequence[str]
    liked: Sequence[bool]
    topics: Sequence[Sequence[str]]

    def titles(self, liked: bool, most: int | None = None) -> list[str]:
        """Names of the liked or of the other items, oldest first; the newest ``most`` of them."""
        titles = [name for name, was_liked in zip(self.names, self.liked, strict=True) if was_liked is liked]
        return titles if most is None else titles[-most:]

    def top_topics(self, most: int = 4) -> list[str]:
        """The most frequent topics of the liked items."""
        counts = Counter(
            topic for topics, was_liked in zip(self.topics, self.liked, strict=True) if was_liked for topic in topics
        )
        return [topic for topic, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]]


def summary_prompt(vocabulary: TextsConfig, facts: PartitionFacts, max_tokens: int, most: int) -> Prompt:
    """LIBER's interest summary of one partition, from at most ``most`` names of either kind.

    Profile data is left out: it is a feature of the CTR model already.
    """
    topics = (
        f"Most frequent {vocabulary.topics} among the {vocabulary.liked} ones: {_listed(facts.top_topics(), ', ')}.\n"
    )
    question = (
        f"A {vocabulary.user} {vocabulary.liked} these {vocabulary.plural}: "
        f"{_listed(facts.titles(True, most), '; ')}.\n"
        f"The {vocabulary.user} {vocabulary.disliked}: {_listed(facts.titles(False, most), '; ')}.\n"
        f"{topics if vocabulary.topics_column else ''}"
        f"In two sentences, describe the taste of this {vocabulary.user}: {vocabulary.tastes}."
    )
    return Prompt(messages=(("user", question),), max_tokens=max_tokens, repetition_penalty=1.05)


def _listed(values: Sequence[str], separator: str) -> str:
    return separator.join(values) or "none"


def summary_text(facts: PartitionFacts, answer: str) -> str:
    """The text to encode of a summary: topics, the answer, then titles as far as the encoder's window reaches."""
    parts = [
        taste(facts, answer),
        f"Liked: {'; '.join(facts.titles(True))}." if any(facts.liked) else "",
        f"Disliked: {'; '.join(facts.titles(False))}." if not all(facts.liked) else "",
    ]
    return " ".join(part for part in parts if part)


def taste(facts: PartitionFacts, answer: str) -> str:
    """A partition in two or three sentences: topics first, which are certain, then the model's answer."""
    topics = facts.top_topics()
    return f"Likes {', '.join(topics) or 'nothing in particular'}. {answer.strip()}"


def shift_prompt(vocabulary: TextsConfig, before: str, now: str, max_tokens: int) -> Prompt:
    """LIBER's interest shift between neighbouring partitions, told from their summaries: UIL's second, cascading call.

    Of three wordings tried on SmolLM2-135M this one gave usable sentences (research/LOG.md, 2026-11-20).
    """
    question = (
        f"Some time ago, a {vocabulary.user}'s taste was described like this: {before}\n"
        f"Today it is described like this: {now}\n"
        f"In one sentence, say how the taste of this {vocabulary.user} has changed."
    )
    return Prompt(messages=(("user", question),), max_tokens=max_tokens, repetition_penalty=1.05)


def shift_text(before: PartitionFacts, now: PartitionFacts, answer: str) -> str:
    """The text that is encoded of a shift: which topics came and went, then the model's answer."""
    old, new = before.top_topics(), now.top_topics()
    came = [topic for topic in new if topic not in old]
    went = [topic for topic in old if topic not in new]
    return f"More {', '.join(came) or 'of the same'}; less {', '.join(went) or 'of nothing'}. {answer.strip()}"
