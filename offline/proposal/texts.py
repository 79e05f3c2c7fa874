"""The section of texts: how an item is told to the language model and to the text encoder, and in which language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from offline.data.languages.registry import LANGUAGES, OTHER, name_of_language
from offline.proposal.features import Column
from offline.proposal.language import WORDS, language_of_items
from offline.proposal.toml import commented, quoted

_MOST_PARTS = 6
"""Columns beside the title that are told of an item: more make prompts long and every item alike."""
_ASPECTS = "its kind and purpose, its qualities, and the people who like it"
_TASTES = "which kinds and qualities the user prefers"
_MARKS = {"zh": ("；", "。"), "ja": ("；", "。")}
"""What stands before a short part and before a long one, where it is not "; " and ". "."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What is written of texts. ``columns`` are those that items are told by, ``title`` names an item if one does,
    ``noun`` is English. ``title_remark``: a doubt about the title; "" if there is none."""

    columns: Sequence[Column]
    title: Column | None
    title_remark: str
    noun: str
    language: str

    @classmethod
    def of(
        cls, table: pl.DataFrame, columns: Sequence[Column], title: Column | None, title_remark: str, path: Path
    ) -> Texts:
        return cls(columns, title, title_remark, noun_of(path), language_of_items(table, columns))

    @property
    def parts(self) -> list[Column]:
        """Columns that are told beside the title, in their order: texts, numbers, descriptions."""
        others = [column for column in self.columns if column is not self.title]
        texts = sorted((column for column in others if not column.is_labelled), key=lambda column: column.is_long)
        chosen = [*texts, *(column for column in others if column.is_labelled)][:_MOST_PARTS]
        return sorted(chosen, key=lambda column: column.is_long)

    @property
    def columns_of_template(self) -> list[Column]:
        """Columns that an item is told by; without a value in any of them nothing is known of it."""
        return [*([] if self.title is None else [self.title]), *self.parts]

    def remarks(self) -> Iterator[str]:
        """What a person must look at."""
        if self.title_remark:
            yield self.title_remark
        english = "the packaged encoder and language model read English alone (docs/knowledge.md, Other languages)"
        if self.language == OTHER:
            yield (
                'the texts are in a language that is not known here: write its code, such as "ru" or "sv", in '
                f"[data.texts]; {english}"
            )
        elif self.language in LANGUAGES and self.language != "en":
            yield f"the texts seem to be in the language {self.language!r}: {english}"
        elif self.language != "en":
            yield (
                f"the texts seem to be {name_of_language(self.language)}: questions are asked in English and end with "
                f"the wish for an answer in it; {english}"
            )

    def template(self) -> str:
        """The template of an item's text."""
        unnamed = self._words.get("unnamed", f"an unnamed {self.noun}")
        article = "an" if self.noun[:1].lower() in "aeiou" else "a"
        if self.title is not None:
            head = f'["{{{self.title.name}}}"|{unnamed}]'
        else:
            head = self._words.get("thing") or self._words.get("noun", f"{article} {self.noun}")
        short, long = _MARKS.get(self.language, ("; ", ". "))
        return head + "".join(f"[{long if column.is_long else short}{_part(column)}]" for column in self.parts)

    def name(self) -> str:
        """The template of an item's short name."""
        noun = self._words.get("thing") or self._words.get("noun", self.noun)
        if self.title is not None:
            return "{" + self.title.name + "}"
        first = next((column for column in self.parts if not column.is_labelled and not column.is_long), None)
        return noun if first is None else f"[{{{first.name}}}|{noun}]"

    def lines(self) -> Iterator[str]:
        """The section [data.texts]."""
        words = self._words
        topics = next((column for column in self.columns if column.type == "list"), None)
        yield ""
        yield "# How items are told to the language model and to the text encoder: {column} is a value, [part] left out"
        yield "# if a column in it is missing, [a|b] is the first alternative that has all its columns."
        left = [column.name for column in self.columns if column is not self.title and column not in self.parts]
        if left:
            yield f"# left out of the text of an item, which has {_MOST_PARTS} parts at most: {', '.join(left)}"
        yield "[data.texts]"
        if self.language != "en":
            asked = "" if self.language in LANGUAGES else "; the words below are for questions in English"
            remark = f"of the items' texts, by their letters and words{asked}"
            yield commented(f"language = {quoted(self.language)}", remark)
        yield f"item = {quoted(self.template())}"
        yield commented(f"name = {quoted(self.name())}", "in lists of items")
        noun = words.get("noun", self.noun)
        yield commented(f"noun = {quoted(noun)}", "for an item, in questions")
        yield commented(f"plural = {quoted(words.get('plural', plural_of(noun)))}", "for several")
        yield commented(f"user = {quoted(words.get('user', 'user'))}", "for a user")
        name = quoted(topics.name if topics is not None else "")
        of_topics = "lists: the most frequent of what a user likes are told" if topics is not None else "no lists"
        yield commented(f"topics_column = {name}", of_topics)
        topics_word = words.get("topics", topics.name.replace("_", " ") if topics is not None else "topics")
        yield commented(f"topics = {quoted(topics_word)}", "for the values of that column")
        yield "# what a text about an item, and a summary of a user, is asked for:"
        yield f"aspects = {quoted(words.get('aspects', _ASPECTS))}"
        yield f"tastes = {quoted(words.get('tastes', _TASTES))}"

    @property
    def _words(self) -> dict[str, str]:
        return dict(WORDS.get(self.language, {}))


def noun_of(path: Path) -> str:
    """A word for an item, from the name of its file: products.csv.gz -> product."""
    stem = path.name.split(".")[0].lower()
    word = "".join(sign for sign in stem if sign.isalpha() or sign == " ")
    if not 3 <= len(word) <= 20 or word in {"data", "items", "item", "catalogue", "catalog", "meta", "metadata"}:
        return "item"
    return word[:-3] + "y" if word.endswith("ies") and word != "movies" else word.removesuffix("s")


def plural_of(noun: str) -> str:
    """The plural of an English noun."""
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def _part(column: Column) -> str:
    return f"{column.name.replace('_', ' ')} {{{column.name}}}" if column.is_labelled else f"{{{column.name}}}"
