"""The words of a domain: the defaults are the films of MovieLens, told as they always were; own words replace them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
from pydantic import ValidationError

from models.contract.schema import fingerprint
from offline.data.texts import TemplateError, TextsConfig


def former(features: Mapping[str, Any]) -> str:
    """How films were described before there were templates; answers of language models are keyed by its outcome."""
    details = [str(features["year"])] if features.get("year") else []
    if features.get("genres"):
        details.append(", ".join(features["genres"]))
    title = f'"{features["title"]}"' if features.get("title") else "an untitled film"
    return f"{title} ({'; '.join(details)})" if details else title


def test_films_are_described_as_they_always_were() -> None:
    titles = ["Toy Story", "Don't Be a Menace", "Étoile (1995)", "101", "A & B: C/D", "", None]
    genres = [["Animation", "Children's", "Comedy"], ["Film-Noir"], [], None]
    for title, year, listed in product(titles, [1995, None], genres):
        features = {"title": title, "year": year, "genres": listed}
        assert TextsConfig().item_text(features) == former(features)
    assert TextsConfig().item_text({"title": "Toy Story", "year": 1995, "genres": ["Animation", "Comedy"]}) == (
        '"Toy Story" (1995; Animation, Comedy)'
    )


def test_own_words() -> None:
    words = TextsConfig(
        item="{brand} {name}[, {price} EUR]",
        name="{name}",
        topics_column="kind",
    )
    shoe = {"brand": 'Mary "M"', "name": "Boot", "price": 99.5, "kind": ["winter", "a\nb"], "size": None}
    assert words.item_text(shoe) == "Mary 'M' Boot, 99.5 EUR"
    assert words.item_name(shoe) == "Boot"
    assert words.topics_of(shoe) == ("winter", "a b")
    assert words.topics_of({"kind": "summer"}) == ("summer",)
    assert words.topics_of({}) == ()


def test_spaces_keep_their_fingerprints_without_the_template_of_events() -> None:
    assert fingerprint(TextsConfig().form) == "2bf74af652c68a3b"


def test_what_describes_an_item() -> None:
    words = TextsConfig(item="{brand}[ {name}]")
    assert words.describes({"brand": None, "name": "Boot"})
    assert not words.describes({"brand": None, "name": "", "price": 3})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"item": "{titel}"}, "texts.item: there is no column 'titel'; columns: genres, title, year"),
        ({"name": "{nme}"}, "texts.name: there is no column 'nme'"),
        ({"topics_column": "tags"}, "texts.topics_column: there is no column 'tags'"),
    ],
)
def test_unknown_columns_are_refused(settings: dict[str, str], reason: str) -> None:
    words = TextsConfig.model_validate(settings)
    with pytest.raises(TemplateError) as raised:
        words.check_columns({"title", "year", "genres"})
    assert reason in str(raised.value)


def test_a_template_that_is_not_understood_is_refused_at_load() -> None:
    with pytest.raises(ValidationError, match="is never closed"):
        TextsConfig(item="[{title}")
