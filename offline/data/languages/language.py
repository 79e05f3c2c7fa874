"""What a language consists of, as far as the jobs are concerned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.contract.prompts import NOTATION, Notation


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences with places in braces, filled by ``str.format``. {noun}, {plural}, {user}, {liked}, {disliked},
    {topics}, {aspects} and {tastes} are the words of the configuration.

    item_question     asks what an item is about: {item} is its text
    item_text         what is encoded of an item: {item}, then the {answer}
    plain_text        what is encoded of an item without any language model: {item}
    summary_question  asks for the taste behind a partition: {liked_names}, {disliked_names}, {topics_line}
    topics_line       the line about topics, with its line break: {values}
    profile_line      a line before the summary question, with its line break, about the {user}: {values}
    previous_line     another, about the taste of the partition before: {before}
    item_group_question  asks about a group of items: {names}, {group_topics}
    user_group_question  asks about a group of users: {names} are of what they liked, {group_topics}
    group_topics      the line about topics in both, with its line break: {values}
    nothing           in the place of an empty list in a question
    names             what stands between the names of items
    taste             what is told of a taste first: {values} are topics, then the {answer}
    no_topics         in the place of the topics of a taste without any
    liked, disliked   what is encoded of a partition behind its taste: {names}
    gap               what stands between two sentences
    shift_question    asks what has changed between two tastes, {before} and {now}
    shift_text        what is encoded of a shift: topics that {came} and that {went}, then the {answer}
    none_came         in the place of topics that came
    none_went         in the place of topics that went
    second_try        what is added to a question whose first answer was bad
    """

    item_question: str
    item_text: str
    plain_text: str
    summary_question: str
    topics_line: str
    profile_line: str
    previous_line: str
    item_group_question: str
    user_group_question: str
    group_topics: str
    nothing: str
    names: str
    taste: str
    no_topics: str
    liked: str
    disliked: str
    gap: str
    shift_question: str
    shift_text: str
    none_came: str
    none_went: str
    second_try: str


@dataclass(frozen=True, slots=True)
class Language:
    """One language.

    ``code`` is its primary subtag of BCP 47. ``words`` are defaults of [data.texts] that differ from the English ones.
    ``function_words`` are frequent words that no neighbouring language shares; none where nobody collected them, or
    where the script tells the language. ``refusal`` finds the beginning of a sentence that declines. ``script`` is what
    an answer must be written in, as ``wording.scripts`` names it; None if that is not known. ``kana`` are the least and
    the greatest share of kana among kana and Chinese characters, which tells Japanese from Chinese.
    ``has_ordinal_dots``: a number with a dot is no end of a sentence ("im 19. Jahrhundert").
    """

    code: str
    sentences: Sentences
    words: Mapping[str, str]
    notation: Notation = NOTATION
    function_words: frozenset[str] = frozenset()
    refusal: re.Pattern[str] | None = None
    script: str | None = "LATIN"
    kana: tuple[float, float] | None = None
    has_ordinal_dots: bool = False

    @property
    def differs_from_english(self) -> bool:
        """Whether an English answer is told from one in this language."""
        return bool(self.function_words) or self.script not in (None, "LATIN")


def beginnings(patterns: Sequence[str], after: str, end: str = "") -> re.Pattern[str]:
    """Any of ``patterns`` where a text begins or right ``after`` a sentence, and before what ``end`` demands."""
    return re.compile(rf"(?:^|{after})(?:{'|'.join(patterns)}){end}")
