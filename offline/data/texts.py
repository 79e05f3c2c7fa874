"""Texts of items, for prompts and for the text encoder: nouns, and a small strict language over any columns.

    "{title}"[ ({year}[; {genres}])]     {column}     the value; a list is joined by ", " (Chinese, Japanese: "、")
                                         [part]       dropped when a column right inside it is missing or empty
                                         [a|b]        the first alternative whose columns are all there, or nothing
                                         \\[ \\{ \\|     the character itself, also for the other special characters

Values are data, and cleaned as such (models/contract/prompts.py): none can close the quotes that a template puts around
it, whichever quotes those are, or be read as a template. What they say is the caller's risk: it stays inside the prompt
of this one item.

The defaults speak of films, and describe MovieLens' films as the project always did; another language has defaults of
its own (offline/data/languages). Which questions are asked is the business of the producers (offline/knowledge), which
take their nouns and sentences from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator

from models.contract.prompts import MAX_CHARS, NOTATION, Notation, Rendered, clean
from models.contract.schema import FrozenConfig
from offline.data.languages.english import ENGLISH
from offline.data.languages.language import Language
from offline.data.languages.registry import LANGUAGES, OTHER, language_of

Word = Annotated[str, Field(min_length=1, max_length=200)]


class TextsConfig(BaseModel):
    """Templates and nouns.

    ``language`` is that of the catalogue, in which the language model is asked and answers: "en", "de", "zh" or "ja",
    which bring defaults for all words; any other code of a language, or "other", asks in English for an answer in it.
    ``item`` describes an item, ``name`` is its short name in lists. ``topics_column`` is the list column whose most
    frequent values sum up what somebody likes; "" if there is none.
    """

    model_config = FrozenConfig

    language: str = "en"
    item: str = '["{title}"|an untitled film][ ({year}; {genres})| ({year})| ({genres})]'
    name: str = "{title}"
    noun: Word = "film"
    plural: Word = "films"
    user: Word = "viewer"
    liked: Word = "liked"
    disliked: Word = "did not like"
    topics_column: str = "genres"
    topics: Word = "genres"
    aspects: Word = "its themes and plot, its mood, and the audience that enjoys it"
    tastes: Word = "which kinds of stories, moods and heroes the viewer enjoys"
    max_chars: Annotated[int, Field(ge=20, le=20_000)] = MAX_CHARS

    @model_validator(mode="before")
    @classmethod
    def _words_of_the_language(cls, settings: Any) -> Any:
        """The settings over the defaults of their language; a class has one set of defaults, the English."""
        tag = settings.get("language") if isinstance(settings, Mapping) else None
        return {**language_of(tag).words, **settings} if isinstance(tag, str) else settings

    @field_validator("language")
    @classmethod
    def _is_a_language(cls, tag: str) -> str:
        if tag != OTHER and not _TAG.fullmatch(tag):
            codes = ", ".join(f'"{code}"' for code in LANGUAGES)
            raise ValueError(
                f'{tag!r} is no code of a language: {codes}, any other code such as "fr" or "pt-BR" (asks in English '
                f'for answers in it), or "{OTHER}"'
            )
        return tag

    @field_validator("item", "name")
    @classmethod
    def _is_a_template(cls, source: str) -> str:
        parse(source)
        return source

    def check_columns(self, columns: Collection[str]) -> None:
        """TemplateError if a template names a column that items do not have."""
        for name in ("item", "name"):
            if unknown := [column for column in columns_of(getattr(self, name)) if column not in columns]:
                raise TemplateError(
                    f"texts.{name}: there is no column {', '.join(map(repr, unknown))}; "
                    f"columns: {', '.join(sorted(columns))}"
                )
        if self.topics_column and self.topics_column not in columns:
            raise TemplateError(f'texts.topics_column: there is no column {self.topics_column!r}; "" switches it off')

    @property
    def spoken(self) -> Language:
        """The language with all that belongs to it."""
        return language_of(self.language)

    @property
    def form(self) -> dict[str, Any]:
        """All of it, for the fingerprints of spaces. The template of events has no effect and is no setting any more,
        and English had no setting once; otherwise every space would be another one, and everybody's knowledge would be
        computed anew."""
        unsaid = {"language"} if self.spoken is ENGLISH else set()
        return {**self.model_dump(mode="json", exclude=unsaid), "event": "{item.name}"}

    @property
    def item_columns(self) -> tuple[str, ...]:
        """Columns of which items' texts, names and topics are written."""
        topics = (self.topics_column,) if self.topics_column else ()
        return tuple(dict.fromkeys((*columns_of(self.item), *columns_of(self.name), *topics)))

    def describes(self, features: Mapping[str, Any]) -> bool:
        """Whether there is anything to tell of an item: a value in any column that its template names."""
        return any(features.get(column) not in (None, "", [], ()) for column in columns_of(self.item))

    def item_text(self, features: Mapping[str, Any]) -> str:
        """An item in a few words: "Toy Story" (1995; Animation, Children's, Comedy)."""
        return render(self.item, features, self.max_chars, self.spoken.notation)

    def item_name(self, features: Mapping[str, Any]) -> str:
        """An item's short name, for lists."""
        return render(self.name, features, self.max_chars, self.spoken.notation)

    def topics_of(self, features: Mapping[str, Any]) -> tuple[str, ...]:
        """An item's values of the topics column, as they may stand in a prompt."""
        values = features.get(self.topics_column) or ()
        listed = values if isinstance(values, (list, tuple)) else (values,)
        notation = self.spoken.notation
        texts = (render("{value}", {"value": value}, self.max_chars, notation) for value in listed)
        return tuple(text for text in texts if text)


_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_SPECIAL = "[]{}|\\"
_QUOTATION = "“”„«»‹›「」『』《》〈〉【】"
"""Quotation marks beside the ASCII one, which no value holds; a value loses those of them that its template writes."""


class TemplateError(ValueError):
    """A template is not understood, or names a column that does not exist."""


@dataclass(frozen=True, slots=True)
class _Value:
    column: str


@dataclass(frozen=True, slots=True)
class _Choice:
    alternatives: tuple[tuple[_Node, ...], ...]


_Node = str | _Value | _Choice


@lru_cache(maxsize=256)
def parse(source: str) -> tuple[_Node, ...]:
    """The nodes of the template in ``source``; TemplateError with the position of what is wrong."""
    nodes, at = _parse_part(source, 0, inside=False)
    assert at == len(source)
    return nodes[0]


def columns_of(template: str) -> tuple[str, ...]:
    """All columns that a template names, in order of appearance."""
    return tuple(dict.fromkeys(_columns(parse(template))))


def render(
    template: str, features: Mapping[str, Any], max_chars: int = MAX_CHARS, notation: Notation = NOTATION
) -> str:
    """The text for ``features``. A column that is absent, None, empty or not a number counts as missing."""
    marks = {ord(mark): "'" for mark in _QUOTATION if mark in template}

    def written(value: Any) -> str:
        return clean(value, max_chars, notation).translate(marks)

    return Rendered(_render(parse(template), features, written)[0])


def _render(nodes: Sequence[_Node], features: Mapping[str, Any], written: Callable[[Any], str]) -> tuple[str, bool]:
    """The text, and whether every column named right here (not inside brackets) had a value."""
    parts: list[str] = []
    complete = True
    for node in nodes:
        if isinstance(node, _Value):
            text = written(features.get(node.column))
            complete = complete and bool(text)
            parts.append(text)
        elif isinstance(node, _Choice):
            rendered = (_render(alternative, features, written) for alternative in node.alternatives)
            parts.append(next((text for text, whole in rendered if whole), ""))
        else:
            parts.append(node)
    return "".join(parts), complete


def _parse_part(source: str, at: int, *, inside: bool) -> tuple[tuple[tuple[_Node, ...], ...], int]:
    """Alternatives from ``at`` up to the closing bracket or the end, and the position there."""
    alternatives: list[tuple[_Node, ...]] = []
    nodes: list[_Node] = []
    while at < len(source):
        character = source[at]
        if character == "\\":
            if source[at + 1 : at + 2] not in tuple(_SPECIAL):
                raise TemplateError(f"{source!r}: \\ at {at} must stand before one of {' '.join(_SPECIAL)}")
            nodes.append(source[at + 1])
            at += 2
        elif character == "{":
            end = source.find("}", at)
            column = source[at + 1 : end] if end > 0 else ""
            if not column.strip() or set(column) & set(_SPECIAL):
                raise TemplateError(f"{source!r}: {{ at {at} is not the start of a {{column}}")
            nodes.append(_Value(column))
            at = end + 1
        elif character == "[":
            inner, end = _parse_part(source, at + 1, inside=True)
            if end == len(source):
                raise TemplateError(f"{source!r}: [ at {at} is never closed")
            nodes.append(_Choice(inner))
            at = end + 1
        elif inside and character == "|":
            alternatives.append(tuple(nodes))
            nodes = []
            at += 1
        elif inside and character == "]":
            break
        elif character in "]}":
            raise TemplateError(f"{source!r}: {character} at {at} closes nothing; write \\{character}")
        else:
            nodes.append(character)
            at += 1
    alternatives.append(tuple(nodes))
    return tuple(alternatives), at


def _columns(nodes: Sequence[_Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Value):
            yield node.column
        elif isinstance(node, _Choice):
            yield from chain.from_iterable(map(_columns, node.alternatives))
