"""The words of a domain: how its items are told, for prompts and for the text encoder.

The defaults speak of films, and describe MovieLens' films as the project always did. Which questions are asked is the
business of the producers (offline/knowledge), which take their nouns from here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator

from models.contract.schema import FrozenConfig
from models.contract.wording import MAX_CHARS
from offline.data.templates import TemplateError, parse, render

Word = Annotated[str, Field(min_length=1, max_length=200)]


class TextsConfig(BaseModel):
    """Templates (offline/data/templates.py) and nouns.

    ``item`` describes an item, ``name`` is its short name in lists.
    ``topics_column`` is the list column whose most frequent values sum up what somebody likes; "" if there is none.
    """

    model_config = FrozenConfig

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

    @field_validator("item", "name")
    @classmethod
    def _is_a_template(cls, source: str) -> str:
        parse(source)
        return source

    def check_columns(self, columns: Collection[str]) -> None:
        """TemplateError if a template names a column that items do not have."""
        for name in ("item", "name"):
            unknown = [column for column in parse(getattr(self, name)).columns if column not in columns]
            if unknown:
                raise TemplateError(
                    f"texts.{name}: there is no column {', '.join(map(repr, unknown))}; "
                    f"columns: {', '.join(sorted(columns))}"
                )
        if self.topics_column and self.topics_column not in columns:
            raise TemplateError(f'texts.topics_column: there is no column {self.topics_column!r}; "" switches it off')

    @property
    def form(self) -> dict[str, Any]:
        """All of it, for the fingerprints of spaces. The template of events has no effect and is no setting any more;
        without it every space would be another one, and everybody's knowledge would be made anew."""
        return {**self.model_dump(mode="json"), "event": "{item.name}"}

    def describes(self, features: Mapping[str, Any]) -> bool:
        """Whether there is anything to tell of an item: a value in any column that its template names."""
        return any(features.get(column) not in (None, "", [], ()) for column in parse(self.item).columns)

    def item_text(self, features: Mapping[str, Any]) -> str:
        """An item in a few words: "Toy Story" (1995; Animation, Children's, Comedy)."""
        return render(self.item, features, self.max_chars)

    def item_name(self, features: Mapping[str, Any]) -> str:
        """An item's short name, for lists."""
        return render(self.name, features, self.max_chars)

    def topics_of(self, features: Mapping[str, Any]) -> tuple[str, ...]:
        """An item's values of the topics column, as they may stand in a prompt."""
        values = features.get(self.topics_column) or ()
        listed = values if isinstance(values, (list, tuple)) else (values,)
        return tuple(text for text in (render("{one}", {"one": value}, self.max_chars) for value in listed) if text)
