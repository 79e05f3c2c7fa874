"""Questions to the language model about items and closed partitions, and the texts that are encoded of its answers.

Titles are data: they are quoted inside one sentence and can break out of nothing, because every partition is a
conversation of its own. The sentences are those of the data set's language (offline/data/languages). Each prompt says
which fields it carries (models/contract/leaving.py); no prompt carries an id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.contract.leaving import HISTORY
from offline.data.texts import TextsConfig, columns_of, render
from offline.knowledge.config import NumbersConfig
from offline.llm.protocol import Prompt


def item_prompt(vocabulary: TextsConfig, features: Mapping[str, Any], max_tokens: int) -> Prompt:
    """Ask what an item is about and whom it is for, in the manner of KAR's item factual prompt (arXiv 2306.10933)."""
    question = vocabulary.spoken.sentences.item_question.format(
        noun=vocabulary.noun, item=vocabulary.item_text(features), aspects=vocabulary.aspects
    )
    return _prompt(question, max_tokens, item_fields(vocabulary))


def _prompt(question: str, max_tokens: int, carries: frozenset[str]) -> Prompt:
    messages = (("user", question),)
    return Prompt(messages=messages, max_tokens=max_tokens, repetition_penalty=1.05, carries=carries)


def number_prompts(vocabulary: TextsConfig, config: NumbersConfig, features: Mapping[str, Any]) -> list[Prompt]:
    """Every question whose answer is a number, about one item: those with the answers in order, then in reverse."""
    noun, letters = vocabulary.noun, config.letters
    introduction = config.introduction.format(noun=noun, item=vocabulary.item_text(features))
    prompts = []
    for order in range(config.orders):
        for question in config.questions:
            answers = question.answers[::-1] if order else question.answers
            lines = [f"{letter}: {answer}" for letter, answer in zip(letters, answers, strict=True)]
            asked = "\n".join([question.ask, *lines]).format(noun=noun)
            messages = (("user", introduction), ("assistant", config.reply), ("user", asked))
            prompts.append(Prompt(messages, 1, choices=letters, carries=item_fields(vocabulary)))
    return prompts


def item_fields(vocabulary: TextsConfig) -> frozenset[str]:
    """Fields that questions about items carry."""
    return frozenset(f"items.{column}" for column in columns_of(vocabulary.item))


def taste_fields(vocabulary: TextsConfig, profile: Sequence[str] = ()) -> frozenset[str]:
    """Fields that questions about users carry, of which ``profile`` is told: of shifts, too, since they quote
    summaries."""
    topics = [vocabulary.topics_column] if vocabulary.topics_column else []
    of_items = (f"items.{column}" for column in (*columns_of(vocabulary.name), *topics))
    return frozenset([HISTORY, *of_items, *profile_fields(profile)])


def profile_fields(profile: Sequence[str]) -> frozenset[str]:
    """Fields that a question carries which tells these features of a user, or quotes an answer to one that did."""
    return frozenset(f"users.{name}" for name in profile)


def group_fields(vocabulary: TextsConfig, side: Literal["item", "user"]) -> frozenset[str]:
    """Fields that questions about groups carry: about users, what several of them liked."""
    fields = taste_fields(vocabulary)
    return fields if side == "user" else fields - {HISTORY}


def profile_facts(vocabulary: TextsConfig, profile: Sequence[str], user: str, features: Mapping[str, Any]) -> str:
    """What is told of a user's ``features``: the names and values of the ``profile`` that are known, as "age 25, gender
    F". A value that is the ``user``'s id is left out."""
    notation = vocabulary.spoken.notation
    values = {
        name: render("{value}", {"value": features.get(name)}, vocabulary.max_chars, notation) for name in profile
    }
    known = [f"{name} {value}" for name, value in values.items() if value and value != user]
    return notation.listing.join(known)


def item_text(vocabulary: TextsConfig, features: Mapping[str, Any], answer: str) -> str:
    """The text that is encoded: the facts first, then the answer, so that truncation loses opinion before fact."""
    return vocabulary.spoken.sentences.item_text.format(item=vocabulary.item_text(features), answer=answer).strip()


def plain_text(vocabulary: TextsConfig, features: Mapping[str, Any]) -> str:
    """An item's own text, without any language model: for the plain-text control."""
    return vocabulary.spoken.sentences.plain_text.format(item=vocabulary.item_text(features))


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


@dataclass(frozen=True, slots=True)
class SummaryContext:
    """What a question about a partition tells beside it: of the user's ``profile``, and of the taste ``before``; ""
    where nothing is told. ``carries`` are the fields in it."""

    profile: str = ""
    before: str = ""
    carries: frozenset[str] = frozenset()


def summary_prompt(
    vocabulary: TextsConfig, facts: PartitionFacts, max_tokens: int, most: int, context: SummaryContext | None = None
) -> Prompt:
    """LIBER's interest summary of one partition, from at most ``most`` names of either kind, and what the ``context``
    tells beside them."""
    language, words = vocabulary.spoken, _words(vocabulary)
    sentences, nothing = language.sentences, language.sentences.nothing
    topics = sentences.topics_line.format(**words, values=language.notation.listing.join(facts.top_topics()) or nothing)
    question = sentences.summary_question.format(
        **words,
        liked_names=sentences.names.join(facts.titles(True, most)) or nothing,
        disliked_names=sentences.names.join(facts.titles(False, most)) or nothing,
        topics_line=topics if vocabulary.topics_column else "",
    )
    context = context or SummaryContext()
    profile = sentences.profile_line.format(**words, values=context.profile) if context.profile else ""
    before = sentences.previous_line.format(**words, before=context.before) if context.before else ""
    return _prompt(f"{profile}{before}{question}", max_tokens, taste_fields(vocabulary) | context.carries)


def group_prompt(
    vocabulary: TextsConfig, facts: PartitionFacts, max_tokens: int, side: Literal["item", "user"]
) -> Prompt:
    """Ask what items of a group are about, or what users of a group like: ``facts`` are of items that stand for it."""
    language = vocabulary.spoken
    sentences, topics = language.sentences, facts.top_topics()
    words = vocabulary.model_dump(include={"noun", "plural", "user", "liked", "topics", "aspects", "tastes"})
    values = language.notation.listing.join(topics)
    line = sentences.group_topics.format(**words, values=values) if topics else ""
    question = sentences.item_group_question if side == "item" else sentences.user_group_question
    asked = question.format(**words, names=sentences.names.join(facts.names), group_topics=line)
    return _prompt(asked, max_tokens, group_fields(vocabulary, side))


def group_text(vocabulary: TextsConfig, facts: PartitionFacts, answer: str, side: Literal["item", "user"]) -> str:
    """The text to encode of a group: topics, the answer, then names as far as the encoder's window reaches."""
    if side == "user":
        return summary_text(vocabulary, facts, answer)
    language = vocabulary.spoken
    listing, sentences = language.notation.listing, language.sentences
    topics = listing.join(facts.top_topics()) or sentences.no_topics
    described = sentences.item_text.format(item=topics, answer=answer.strip())
    return sentences.gap.join([described, sentences.plain_text.format(item=sentences.names.join(facts.names))])


def _words(vocabulary: TextsConfig) -> dict[str, str]:
    """The words of the configuration that sentences about people use."""
    return vocabulary.model_dump(include={"plural", "user", "liked", "disliked", "topics", "tastes"})


def summary_text(vocabulary: TextsConfig, facts: PartitionFacts, answer: str) -> str:
    """The text to encode of a summary: topics, the answer, then titles as far as the encoder's window reaches."""
    sentences = vocabulary.spoken.sentences
    parts = [
        taste(vocabulary, facts, answer),
        sentences.liked.format(names=sentences.names.join(facts.titles(True))) if any(facts.liked) else "",
        sentences.disliked.format(names=sentences.names.join(facts.titles(False))) if not all(facts.liked) else "",
    ]
    return sentences.gap.join(part for part in parts if part)


def taste(vocabulary: TextsConfig, facts: PartitionFacts, answer: str) -> str:
    """A partition in two or three sentences: topics first, which are certain, then the model's answer."""
    language = vocabulary.spoken
    topics = language.notation.listing.join(facts.top_topics()) or language.sentences.no_topics
    return language.sentences.taste.format(values=topics, answer=answer.strip())


def shift_prompt(
    vocabulary: TextsConfig, before: str, now: str, max_tokens: int, quoted: frozenset[str] = frozenset()
) -> Prompt:
    """LIBER's interest shift between neighbouring partitions, told from their summaries: UIL's second, cascading call.

    Of three English wordings tried on SmolLM2-135M this one gave usable sentences (research/LOG.md, 2026-11-20). It
    carries the ``taste_fields`` and what else the two summaries ``quoted``.
    """
    question = vocabulary.spoken.sentences.shift_question.format(user=vocabulary.user, before=before, now=now)
    return _prompt(question, max_tokens, taste_fields(vocabulary) | quoted)


def shift_text(vocabulary: TextsConfig, before: PartitionFacts, now: PartitionFacts, answer: str) -> str:
    """The text that is encoded of a shift: which topics came and went, then the model's answer."""
    language, old, new = vocabulary.spoken, before.top_topics(), now.top_topics()
    listing, sentences = language.notation.listing, language.sentences
    return sentences.shift_text.format(
        came=listing.join(topic for topic in new if topic not in old) or sentences.none_came,
        went=listing.join(topic for topic in old if topic not in new) or sentences.none_went,
        answer=answer.strip(),
    )
