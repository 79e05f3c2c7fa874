"""Prompts and encoded texts of partitions and shifts; the demo's shipped answers depend on every letter."""

from __future__ import annotations

import pytest

from offline.data.texts import TextsConfig
from offline.knowledge.prompts import PartitionFacts, shift_prompt, shift_text, summary_prompt, summary_text, taste

WORDS = TextsConfig()
FACTS = PartitionFacts(["A", "B", "C"], [True, True, False], [("War", "Drama"), ("War",), ()])


def test_the_question_about_a_partition() -> None:
    assert summary_prompt(WORDS, FACTS, 32, 20).messages[-1][1] == (
        "A viewer liked these films: A; B.\n"
        "The viewer did not like: C.\n"
        "Most frequent genres among the liked ones: War, Drama.\n"
        "In two sentences, describe the taste of this viewer: "
        "which kinds of stories, moods and heroes the viewer enjoys."
    )


def test_the_newest_titles_are_told() -> None:
    asked = summary_prompt(WORDS, FACTS, 32, 1).messages[-1][1]
    assert "liked these films: B." in asked
    assert "did not like: C." in asked


def test_the_words_of_another_domain() -> None:
    words = TextsConfig(
        noun="song",
        plural="songs",
        user="listener",
        liked="loved",
        topics="moods",
        topics_column="",
        tastes="what it is",
    )
    asked = summary_prompt(words, FACTS, 32, 20).messages[-1][1]
    assert "A listener loved these songs: A; B." in asked
    assert "Most frequent" not in asked
    assert asked.endswith("describe the taste of this listener: what it is.")


def test_what_is_encoded_of_a_summary() -> None:
    assert taste(WORDS, FACTS, " An answer. ") == "Likes War, Drama. An answer."
    assert summary_text(WORDS, FACTS, " An answer. ") == "Likes War, Drama. An answer. Liked: A; B. Disliked: C."


@pytest.mark.parametrize("liked", [True, False])
def test_one_sided_and_empty_partitions(liked: bool) -> None:
    text = summary_text(WORDS, PartitionFacts(["A"], [liked], [()]), "x")
    assert ("Liked: A." in text, "Disliked: A." in text) == (liked, not liked)
    empty = PartitionFacts([], [], [])
    assert summary_text(WORDS, empty, "x") == "Likes nothing in particular. x"
    assert "liked these films: none." in summary_prompt(WORDS, empty, 32, 20).messages[-1][1]


def test_a_shift_is_told_from_two_tastes() -> None:
    asked = shift_prompt(WORDS, "Likes War.", "Likes Drama.", 16)
    assert asked.messages[-1][1] == (
        "Some time ago, a viewer's taste was described like this: Likes War.\n"
        "Today it is described like this: Likes Drama.\n"
        "In one sentence, say how the taste of this viewer has changed."
    )
    before = PartitionFacts(["A"], [True], [("War", "Drama")])
    now = PartitionFacts(["B"], [True], [("Drama", "Comedy")])
    assert shift_text(WORDS, before, now, "It did. ") == "More Comedy; less War. It did."
    assert shift_text(WORDS, before, before, "It did not.") == "More of the same; less of nothing. It did not."
