"""Answers to prompts with choices: how probable each choice is as the next token, as a text that is stored as others.

A model in this process knows all its next tokens. A server lists its likeliest ones alone (20 at most by OpenAI's
protocol): a choice that it does not list counts as 0, and ``unlisted`` says how probable it may be all the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DIGITS = 6  # significant, of what is stored


@dataclass(frozen=True, slots=True)
class ChoiceAnswer:
    """``probabilities`` of the choices, in their order; what they lack of 1 belongs to tokens that are no choice.
    ``unlisted`` is the most that a choice may have that counts as 0; 0 if each is known."""

    probabilities: tuple[float, ...]
    unlisted: float = 0.0

    @property
    def mass(self) -> float:
        """The probability that the next token is any of the choices, at least."""
        return math.fsum(self.probabilities)

    @classmethod
    def of_listed(cls, listed: Mapping[str, float], choices: Sequence[str]) -> ChoiceAnswer:
        """From the ``listed`` likeliest next tokens, by their texts; white space around a token is no part of it.

        What is not listed has at most the probability of the least likely token that is, and at most what all listed
        ones together lack of 1.
        """
        found = {choice: [p for token, p in listed.items() if token.strip() == choice] for choice in choices}
        rest = max(0.0, 1.0 - math.fsum(listed.values()))
        unlisted = 0.0 if all(found.values()) else min(rest, min(listed.values(), default=1.0))
        return cls(tuple(math.fsum(found[choice]) for choice in choices), unlisted)

    def text(self, choices: Sequence[str]) -> str:
        """The answer's text, as the cache keeps it: JSON with the probability of each choice."""
        rounded = {choice: _rounded(p) for choice, p in zip(choices, self.probabilities, strict=True)}
        return json.dumps({"choices": rounded, "unlisted": _rounded(self.unlisted)})

    @classmethod
    def parse(cls, text: str, choices: Sequence[str]) -> ChoiceAnswer | None:
        """Inverse of ``text``; None for any other text, and for numbers that are no probabilities."""
        try:
            document: Any = json.loads(text)
            probabilities = tuple(float(document["choices"][choice]) for choice in choices)
            unlisted = float(document["unlisted"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        is_sound = all(0.0 <= p <= 1.0 for p in (*probabilities, unlisted))  # also refuses NaN
        return cls(probabilities, unlisted) if is_sound and math.fsum(probabilities) <= 1.0 + 1e-3 else None


def _rounded(probability: float) -> float:
    return float(f"{probability:.{_DIGITS}g}")
