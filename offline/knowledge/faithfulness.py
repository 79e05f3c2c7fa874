"""Titles, names and years in an answer of a language model that are not in its question.

Looks at an answer and its own question alone, as offline/knowledge/quality.py does, and understands neither. An answer
without a finding may be untrue all the same: most of what models invent is in common words. docs/knowledge.md has how
many findings are none. Three kinds are looked for:

year    four digits from 1500 to 2099; a decade is in the question if a year of it is
title   several words between quotation marks, the longer ones with a capital; of a script without capitals, any
name    several words with a capital in a row: of a person, a place, a work. Not in German, whose nouns all have one
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from offline.data.languages.english import ENGLISH
from offline.data.languages.language import Language
from offline.llm import wording
from offline.llm.protocol import Prompt

InventionKind = Literal["year", "title", "name"]
INVENTION_KINDS: tuple[InventionKind, ...] = ("year", "title", "name")

_YEAR = re.compile(r"(?<![\dA-Za-z])(?<!\d[.,])(?P<year>1[5-9]\d\d|20\d\d)(?P<decade>['’]?s\b)?(?!\d|[.,]\d)")
_QUOTES = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("»", "«"), ("《", "》"), ("「", "」"))
_QUOTED = re.compile("|".join(rf"{first}([^{first}{last}\n]{{2,100}}){last}" for first, last in _QUOTES))
_WORD = re.compile(r"[^\W\d_](?:[\w'’-]*\w)?\.?")
_MOST_WORDS = 9  # of a title or a name: longer ones are sentences, or lists
_LONG = 4  # letters of a word that has a capital in a title
_ABBREVIATED = 2  # a dot behind more letters than these ends a sentence
_PARTICLES = frozenset(["of", "the", "de", "la", "le", "du", "da", "di", "del", "der", "den", "van", "von"])
_ENGLISH_BEGINNINGS = """
a although an another as at based both critics despite directed during each even every fans featuring he his however in
inspired is its like many most no on other over overall set similar since so some starring they this though unlike
viewers was we while with within
"""
_FIRST_WORDS = frozenset(_ENGLISH_BEGINNINGS.split())
"""Words with which English sentences begin, beside the function words of the language."""


@dataclass(frozen=True, slots=True)
class Invention:
    """A finding: its kind, and the words of the answer."""

    kind: InventionKind
    words: str


def inventions(answer: str, question: str, language: Language = ENGLISH) -> list[Invention]:
    """What an answer names and its question does not, in the order of ``INVENTION_KINDS``."""
    asked = wording.words(question)
    known = {_plain(word) for word in asked}
    years = {mark["year"] for mark in _YEAR.finditer(question)}
    findings = [Invention("year", words) for words in _years(answer, years)]
    quotations = [next(filter(None, mark.groups())) for mark in _QUOTED.finditer(answer)]
    findings += [Invention("title", words) for words in quotations if _is_title(words) and not _is_known(words, known)]
    if language.script == "LATIN" and language.code != "de":
        common = {word for word in re.findall(r"\w+", f"{answer} {question}") if word.islower()}
        common |= language.function_words | _FIRST_WORDS
        rows = _rows_of_capitals(_QUOTED.sub(" … ", answer), common)
        findings += [Invention("name", words) for words in rows if not _is_known(words, known | _PARTICLES)]
    return findings


def inventions_of(answer: str, prompt: Prompt, language: Language = ENGLISH) -> list[Invention]:
    """What the answer to a prompt names and none of its messages does; nothing of a prompt with choices."""
    return [] if prompt.choices else inventions(answer, "\n".join(text for _, text in prompt.messages), language)


@dataclass(slots=True)
class Faithfulness:
    """Counts over usable ``answers``: those with findings are ``unfaithful``, and ``kinds`` counts them by kind."""

    answers: int = 0
    unfaithful: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, findings: Iterable[Invention]) -> None:
        """Count an answer with its findings."""
        kinds = {invention.kind for invention in findings}
        self.answers += 1
        self.unfaithful += bool(kinds)
        self.kinds.update(kinds)

    @property
    def rate(self) -> float:
        """The share of answers without a finding; nan without answers."""
        return 1 - self.unfaithful / self.answers if self.answers else float("nan")

    def document(self) -> dict[str, int]:
        """The counts as JSON."""
        return {
            "answers": self.answers,
            "unfaithful": self.unfaithful,
            **{kind: self.kinds[kind] for kind in INVENTION_KINDS},
        }


def _plain(word: str) -> str:
    """A word in lower case without the ending of a possessive."""
    return re.sub(r"['’]s?$", "", word.lower())


def _is_known(words: str, known: set[str] | frozenset[str]) -> bool:
    """Whether each of the words is known, also as a plural or in the singular."""
    return all(
        any(form in known for form in (word, f"{word}s", word.removesuffix("s")))
        for word in map(_plain, wording.words(words))
    )


def _years(answer: str, asked: set[str]) -> Iterator[str]:
    decades = {year[:3] for year in asked}
    for mark in _YEAR.finditer(answer):
        is_decade = mark["decade"] is not None and mark["year"].endswith("0")
        if mark["year"] not in asked and not (is_decade and mark["year"][:3] in decades):
            yield mark[0]


def _is_title(quoted: str) -> bool:
    """Whether words between quotation marks look like a title."""
    spoken = wording.words(quoted)
    if wording.characters_per_word(spoken) > 1:
        return len(spoken) > 1
    words = _WORD.findall(quoted)
    return (
        1 < len(words) <= _MOST_WORDS
        and words[0][0].isupper()
        and all(word[0].isupper() for word in words if len(word) > _LONG)
    )


def _rows_of_capitals(text: str, common: set[str]) -> Iterator[str]:
    """Words with a capital that follow one another, several at least, with particles between them, and without what
    begins a sentence: a word that is ``common``."""
    row: list[str] = []
    end = -1
    for mark in (*_WORD.finditer(text), None):
        follows = mark is not None and row and text[end : mark.start()] == " " and not _ends_sentence(row[-1])
        if mark is not None and follows and (mark[0] in _PARTICLES or mark[0][0].isupper()):
            row.append(mark[0])
            end = mark.end()
            continue
        if words := _name(row, common):
            yield words
        row = [mark[0]] if mark is not None and mark[0][0].isupper() else []
        end = -1 if mark is None else mark.end()


def _ends_sentence(word: str) -> bool:
    return word.endswith(".") and len(word) > _ABBREVIATED + 1


def _name(row: list[str], common: set[str]) -> str:
    """The name in a row of words with capitals; "" if there is none."""
    words = list(row)
    while words and (words[-1] in _PARTICLES):
        words.pop()
    while words and (words[0] in _PARTICLES or words[0].lower() in common):
        words.pop(0)
    capitals = [word for word in words if word not in _PARTICLES]
    return " ".join(words).rstrip(".") if 1 < len(capitals) <= _MOST_WORDS else ""
