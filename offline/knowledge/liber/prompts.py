"""What the language model is asked about one closed partition, and what is encoded of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offline.llm.protocol import Prompt


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition as raw features: the items in order, and which of them were liked."""

    items: Sequence[Mapping[str, Any]]
    liked: Sequence[bool]

    def titles(self, liked: bool) -> list[str]:
        return [str(item["title"]) for item, one in zip(self.items, self.liked, strict=True) if one is liked]

    def top_genres(self, liked: bool, most: int = 4) -> list[str]:
        counts = Counter(
            genre
            for item, one in zip(self.items, self.liked, strict=True)
            if one is liked
            for genre in item.get("genres", ())
        )
        return [genre for genre, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]]


def summary_prompt(facts: PartitionFacts, max_tokens: int) -> Prompt:
    """LIBER's interest summary of one partition. Profile data is left out: it is a feature of the CTR model already."""
    liked, disliked = facts.titles(True), facts.titles(False)
    question = (
        f"A viewer liked these films: {'; '.join(liked) or 'none'}.\n"
        f"The viewer did not like: {'; '.join(disliked) or 'none'}.\n"
        f"Most frequent genres among the liked ones: {', '.join(facts.top_genres(True)) or 'none'}.\n"
        "In two sentences, describe the taste of this viewer: "
        "which kinds of stories, moods and heroes the viewer enjoys."
    )
    return Prompt(messages=(("user", question),), max_tokens=max_tokens, repetition_penalty=1.05)


def partition_text(facts: PartitionFacts, answer: str) -> str:
    """What is encoded: genres, the model's answer, then titles as far as the encoder's window reaches."""
    parts = [
        f"Likes {', '.join(facts.top_genres(True)) or 'nothing in particular'}.",
        answer.strip(),
        f"Liked: {'; '.join(facts.titles(True))}." if any(facts.liked) else "",
        f"Disliked: {'; '.join(facts.titles(False))}." if not all(facts.liked) else "",
    ]
    return " ".join(part for part in parts if part)
