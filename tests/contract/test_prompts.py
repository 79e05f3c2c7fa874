"""The reranker's prompt: what candidates share, what a value cannot do to it, and which events are told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.contract.prompts import Notation, PromptParts, Rated, Rendered, RerankPrompt, most_recent, most_similar

PROMPT = RerankPrompt(
    opening="<|im_start|>user\n",
    closing="<|im_end|>\n<|im_start|>assistant\n",
    profile_fields=("age", "gender", "zip"),
    yes="Yes",
    no="No",
    history=3,
)
HISTORY = [Rated("Toy Story", 5.0), Rated("Heat", 2.5)]


def test_a_prompt_as_it_is_read() -> None:
    prompt = PROMPT.parts({"gender": "F", "age": 25.0, "name": "Ann"}, HISTORY, '"Jumanji" (1995; Adventure)')
    assert str(prompt) == (
        "<|im_start|>user\n"
        "Viewer: age 25, gender F\n"
        "The viewer rated, oldest first:\n"
        "Toy Story: 5 stars\n"
        "Heat: 2.5 stars\n"
        "Candidate: 'Jumanji' (1995; Adventure)\n"
        "Will the viewer like it? Answer Yes or No.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt.user.endswith("Heat: 2.5 stars\n")


def test_candidates_of_one_user_and_history_share_the_user_block() -> None:
    prompts = [PROMPT.parts({"age": 25}, HISTORY, text) for text in ("one film", "another film")]
    assert prompts[0].user == prompts[1].user
    assert prompts[0].candidate != prompts[1].candidate


def test_nothing_known_is_said_or_left_out() -> None:
    assert PROMPT.user_block({}, []) == "<|im_start|>user\nThe viewer has rated nothing yet.\n"
    assert "something unknown" in PROMPT.candidate_block("")
    assert "something unknown: 4 stars" in PROMPT.user_block({}, [Rated("", 4.0)])


def test_a_verdict_in_place_of_stars() -> None:
    prompt = PROMPT.model_copy(update={"line": "{name} - {verdict}", "liked_above": 0.5})
    assert "Heat - liked\nAli - did not like\n" in prompt.user_block({}, [Rated("Heat", 1.0), Rated("Ali", 0.0)])


@given(st.text(max_size=80))
def test_values_add_no_line_and_no_turn(value: str) -> None:
    prompt = PROMPT.parts({"age": value}, [Rated(value, 3.0)], value)
    plain = PROMPT.parts({"age": "x"}, [Rated("x", 3.0)], "x")
    assert str(prompt).count("<|im_") == str(plain).count("<|im_")
    assert prompt.candidate.count("\n") == plain.candidate.count("\n")
    assert prompt.user.count("\n") in (plain.user.count("\n"), plain.user.count("\n") - 1), (
        "an empty profile is left out"
    )


def test_places_inside_of_values_are_text() -> None:
    assert "{value} {name}: 3 stars" in PROMPT.user_block({}, [Rated("{value} {name}", 3.0)])
    assert "Candidate: {text}\n" in PROMPT.candidate_block("{text}")


def test_what_a_template_rendered_is_cleaned_like_the_text_that_the_service_reads() -> None:
    text = '"Heat" (1995)'
    assert PROMPT.candidate_block(Rendered(text)) == PROMPT.candidate_block(text)
    assert PROMPT.user_block({}, [Rated(Rendered(text), 1.0)]) == PROMPT.user_block({}, [Rated(text, 1.0)])


@pytest.mark.parametrize(
    "broken",
    [
        {"line": "{value}"},
        {"line": "{name} {stars}"},
        {"candidate": "Candidate"},
        {"candidate": " {text}"},
        {"candidate": "\n{text}"},
        {"yes": "Yes", "no": " Yes"},
        {"unknown": 1},
    ],
)
def test_a_template_that_could_not_work_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RerankPrompt.model_validate(PROMPT.model_dump() | broken)


def test_the_fingerprint_follows_every_word() -> None:
    assert PROMPT.fingerprint == RerankPrompt.model_validate_json(PROMPT.model_dump_json()).fingerprint
    assert PROMPT.fingerprint != PROMPT.model_copy(update={"question": "Yes or No?"}).fingerprint


GERMAN = Notation(decimal=",", listing=" und ", unknown="etwas Unbekanntes")


def test_another_notation_reaches_every_value_and_a_usual_one_no_fingerprint() -> None:
    prompt = RerankPrompt.model_validate({"profile_fields": ("alter", "orte"), "notation": GERMAN})
    user = prompt.user_block({"alter": 30, "orte": ["Ulm", "Bonn"]}, [Rated("", 2.5)])
    assert "alter 30 und orte Ulm und Bonn\n" in user
    assert "etwas Unbekanntes: 2,5 stars" in user
    assert "etwas Unbekanntes" in prompt.candidate_block("")
    assert RerankPrompt.model_validate_json(prompt.model_dump_json()) == prompt
    assert "notation" not in RerankPrompt().model_dump_json()
    assert RerankPrompt().fingerprint == "cc1e7f61d6ca175a"
    assert prompt.fingerprint != RerankPrompt(profile_fields=("alter", "orte")).fingerprint


def test_recent_events_are_the_last_ones() -> None:
    assert most_recent(5, 3).tolist() == [2, 3, 4]
    assert most_recent(2, 3).tolist() == [0, 1]
    assert most_recent(0, 3).tolist() == []
    assert PROMPT.chosen(np.zeros(0, np.float32), np.zeros((5, 0), np.float32)).tolist() == [2, 3, 4]


def test_relevant_events_are_the_most_similar_ones_in_the_order_of_time() -> None:
    history = np.array([[1, 0], [0, 1], [0.8, 0.6], [-1, 0], [0.6, 0.8]], np.float32)
    candidate = np.array([1, 0], np.float32)
    assert most_similar(candidate, history, 2).tolist() == [0, 2]
    assert most_similar(candidate, history, 3).tolist() == [0, 2, 4]
    assert most_similar(candidate, history, 9).tolist() == [0, 1, 2, 3, 4]
    relevant = PROMPT.model_copy(update={"selection": "relevant", "history": 2})
    assert relevant.chosen(candidate, history).tolist() == [0, 2]


def test_of_equally_similar_events_the_later_ones_are_told() -> None:
    history = np.tile(np.array([[0.6, 0.8]], np.float32), (5, 1))
    assert most_similar(np.array([1, 0], np.float32), history, 2).tolist() == [3, 4]
    unknown = np.zeros(2, np.float32)
    assert most_similar(unknown, history, 3).tolist() == [2, 3, 4], "without a vector: the recent ones"


def test_the_choice_does_not_depend_on_how_the_product_is_summed() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(size=64).astype(np.float32)
    base /= np.linalg.norm(base)
    history = np.stack([np.roll(base, 0), base[::1], base]).astype(np.float32)
    in_another_layout = np.asfortranarray(np.concatenate([history, history]))[:3]
    assert most_similar(base, history, 2).tolist() == most_similar(base, in_another_layout, 2).tolist() == [1, 2]


def test_blocks_are_one_text() -> None:
    assert str(PromptParts("one\n", "two")) == "one\ntwo"
