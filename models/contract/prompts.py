"""The reranker's prompt, which events of a history it tells, and values made harmless inside any prompt: pure functions
that training and service both call.

A prompt is a user block and a candidate block, one after the other. The user block holds all that candidates of one
user share (chat frame, profile, rated history), so that a server's prefix cache computes it once; the candidate, the
question and the end of the chat frame follow. The blocks are plain text: the frame of the model's chat format is
written out in the template, since a server that is asked for the next token of a text adds none.

Published reading: ReLLa (arXiv 2308.11131) asks for "Yes" or "No" about one candidate, tells ratings with the history,
and chooses for each candidate the K most similar items of the user's own history, put back in the order of time.

Values in prompts, of jobs and service alike, are data. ``clean`` takes from them line breaks, control and invisible
characters, double quotes, angle brackets and the bracketed words that chat formats reserve, and cuts them at a length;
so a value can neither close the quotes that a template puts around it, nor start a line or a turn of its own. What they
say in words is the caller's risk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, model_validator

from models.contract.arrays import FloatArray, IntArray
from models.contract.graphemes import cut
from models.contract.schema import FrozenConfig, fingerprint

Selection = Literal["recent", "relevant"]
"""Which K events of a history are told: the last ones, or those most similar to the candidate (SUBR)."""

_PLACE = re.compile(r"\{(\w+)\}")
_SIMILARITY_DECIMALS = 6
"""Similarities are compared after rounding: a matrix product has other last bits than a row of it alone."""

MAX_CHARS = 600
"""Default length of one value: enough for a plot, too short to bury a prompt."""

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Invisible: soft hyphen, direction marks, zero-width characters (but not the joiners that scripts need), tags,
# and lone surrogates, which no encoder accepts.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
    "\ud800-\udfff]"
)
_RESERVED = re.compile(
    r"[\[\uff3b](/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|THINK))[\]\uff3d]", re.I
)
# the full-width forms too: many tokenizers read them as the others
_HARMLESS = str.maketrans({'"': "'", "<": "‹", ">": "›", "\uff02": "'", "\uff1c": "‹", "\uff1e": "›"})


class Notation(BaseModel):
    """How values are written in a language: what stands between those of a list, the decimal mark, the words for true
    and false, and what stands for something that has no name."""

    model_config = FrozenConfig

    listing: str = ", "
    decimal: Annotated[str, Field(min_length=1, max_length=1)] = "."
    true: str = "true"
    false: str = "false"
    unknown: Annotated[str, Field(min_length=1)] = "something unknown"

    def number(self, text: str) -> str:
        """A number's usual text with this decimal mark."""
        return text.replace(".", self.decimal)


NOTATION = Notation()
"""English."""


class Rendered(str):
    """Text that a template made. Inside another template it is inserted as it is."""

    __slots__ = ()


class Rated(NamedTuple):
    """One event of a history: the item's short name, and the value of the interaction."""

    name: str
    value: float


class PromptParts(NamedTuple):
    """A prompt in its two parts. ``str`` of it is what the model reads."""

    user: str
    candidate: str

    def __str__(self) -> str:
        return self.user + self.candidate


class RerankPrompt(BaseModel):
    """The template. Part of a reranker's manifest, since a model that was tuned to one prompt answers no other.

    opening, closing   the chat frame before the user block and after the question; "" for a model without one
    profile            one line about the user; ``{profile}`` is "age 25, gender F": those of ``profile_fields`` that
                       are known, in this order. Left out if none is
    heading            the line before the history, ``nothing`` in its place if there is no history
    line               one event: ``{name}``, ``{value}`` and ``{verdict}``, which is ``liked`` or ``disliked``
    candidate          ``{text}`` describes the item
    yes, no            the answers, spelled as they continue the prompt: with a leading blank where it ends without one
    history            K, how many events are told
    notation           how lists, numbers and what has no name are written; a manifest tells it only if it is not the
                       English one, so that prompts of before this setting keep their fingerprints
    """

    model_config = FrozenConfig

    format: Literal[1] = 1
    opening: str = ""
    profile: str = "Viewer: {profile}"
    profile_fields: tuple[str, ...] = ()
    heading: str = "The viewer rated, oldest first:"
    nothing: str = "The viewer has rated nothing yet."
    line: str = "{name}: {value} stars"
    liked: str = "liked"
    disliked: str = "did not like"
    liked_above: float = 3.0
    candidate: str = "Candidate: {text}"
    question: str = "Will the viewer like it? Answer Yes or No."
    closing: str = "\nAnswer:"
    yes: Annotated[str, Field(min_length=1)] = " Yes"
    no: Annotated[str, Field(min_length=1)] = " No"
    history: Annotated[int, Field(ge=0, le=500)] = 10
    selection: Selection = "recent"
    max_chars: Annotated[int, Field(ge=20, le=2000)] = 160
    notation: Annotated[Notation, Field(exclude_if=lambda notation: notation == NOTATION)] = NOTATION

    @model_validator(mode="after")
    def _is_consistent(self) -> RerankPrompt:
        allowed = {"profile": {"profile"}, "line": {"name", "value", "verdict"}, "candidate": {"text"}}
        needed = {"profile": {"profile"}, "line": {"name"}, "candidate": {"text"}}
        for field, names in allowed.items():
            places = set(_PLACE.findall(getattr(self, field)))
            if not needed[field] <= places <= names:
                raise ValueError(f"{field} must name {sorted(needed[field])} and may name {sorted(names)}")
        # Servers turn the two blocks into tokens one by one. No token reaches over the line break between them as long
        # as no white space follows it.
        if not self.candidate[0].isalpha():
            raise ValueError("candidate must begin with a letter, so that the blocks can be cut into tokens separately")
        if self.yes.strip() == self.no.strip():
            raise ValueError("yes and no must be different words")
        return self

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever a prompt could."""
        return fingerprint(self.model_dump(mode="json"))

    def user_block(self, profile: Mapping[str, object], history: Sequence[Rated]) -> str:
        """The text before the candidate, ending with a line break. ``history`` are the chosen events, oldest first."""
        lines = []
        known = [(name, self._clean(profile.get(name))) for name in self.profile_fields]
        if facts := self.notation.listing.join(f"{name} {value}" for name, value in known if value):
            lines.append(_filled(self.profile, {"profile": facts}))
        lines.append(self.heading if history else self.nothing)
        lines += [self._event(event) for event in history]
        return self.opening + "\n".join(lines) + "\n"

    def candidate_block(self, text: str) -> str:
        """The candidate that ``text`` describes, the question, and where the answer begins."""
        asked = _filled(self.candidate, {"text": self._clean(text) or self.notation.unknown})
        return f"{asked}\n{self.question}{self.closing}"

    def parts(self, profile: Mapping[str, object], history: Sequence[Rated], text: str) -> PromptParts:
        """The prompt about one candidate."""
        return PromptParts(self.user_block(profile, history), self.candidate_block(text))

    def chosen(self, candidate: FloatArray, history: FloatArray) -> IntArray:
        """Positions of the events that are told, rising, from unit vectors ``candidate`` [D] and ``history`` [T, D],
        oldest first. Recent events need no vectors: ``history`` may be of any width then."""
        if self.selection == "recent":
            return most_recent(len(history), self.history)
        return most_similar(candidate, history, self.history)

    def _event(self, event: Rated) -> str:
        verdict = self.liked if event.value > self.liked_above else self.disliked
        name, value = self._clean(event.name) or self.notation.unknown, self.notation.number(f"{event.value:g}")
        return _filled(self.line, {"name": name, "value": value, "verdict": verdict})

    def _clean(self, value: object) -> str:
        # as plain text, also what a template made: the service has read it from a file and cannot tell
        return clean(str(value) if isinstance(value, str) else value, self.max_chars, self.notation)


def clean(value: Any, max_chars: int = MAX_CHARS, notation: Notation = NOTATION) -> str:
    """A value as one harmless line of at most ``max_chars`` characters; "" if there is nothing to say. What people see
    as one character is not cut into parts."""
    if isinstance(value, Rendered):
        return str(value)
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return notation.true if value else notation.false
    if isinstance(value, float):
        value = int(value) if value.is_integer() else notation.number(str(value))
    if isinstance(value, (list, tuple)):
        value = notation.listing.join(part for part in (clean(each, max_chars, notation) for each in value) if part)
    text = _RESERVED.sub(r"(\1)", _INVISIBLE.sub("", _BREAKS.sub(" ", str(value))).translate(_HARMLESS))
    text = " ".join(text.split())
    return text if len(text) <= max_chars else cut(text, max_chars - 1).rstrip() + "…"


def most_recent(events: int, k: int) -> IntArray:
    """Positions of the last ``k`` of so many events, rising."""
    return np.arange(max(0, events - k), events, dtype=np.int64)


def most_similar(candidate: FloatArray, history: FloatArray, k: int) -> IntArray:
    """SUBR: positions [min(k, T)] of the ``k`` events most similar to the candidate, back in the order of time.

    ``candidate`` [D] and ``history`` [T, D], oldest first, are unit vectors; zeros of an item without a vector are
    similar to nothing. Of equally similar events the later ones are taken.
    """
    similarity = np.round(history.astype(np.float64) @ candidate.astype(np.float64), _SIMILARITY_DECIMALS)
    best_first = np.lexsort((-np.arange(len(history)), -similarity))
    return np.sort(best_first[:k]).astype(np.int64)


def _filled(template: str, values: Mapping[str, str]) -> str:
    """In one pass: braces inside a value stay what they are."""
    return _PLACE.sub(lambda place: values[place[1]], template)
