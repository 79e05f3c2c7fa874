"""Titles, names and years that a question does not have: what counts as one, and what does not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from offline.data.languages.registry import language_of
from offline.data.texts import TextsConfig
from offline.knowledge.config import KnowledgeConfig, NumbersConfig
from offline.knowledge.faithfulness import Faithfulness, inventions, inventions_of
from offline.knowledge.prompts import number_prompts
from offline.knowledge.quality import problem, usable
from offline.llm.protocol import Answers, Completion, Prompt
from tests.offline.knowledge.test_quality import GOOD, QUESTION


def named(answer: str, question: str = QUESTION, language: str = "en") -> list[tuple[str, str]]:
    return [(invention.kind, invention.words) for invention in inventions(answer, question, language_of(language))]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (GOOD, []),
        ('"Fargo" (1996) is a crime drama of the 1990s, in 1996 as today.', []),
        ("Fargo's 1996 thriller cost 7,1996 dollars and 1996.5 more, in room 19960.", []),
        ("In 2013 it won; the 1980s were better.", [("year", "2013"), ("year", "1980s")]),
        ('It is like "Blood Simple" and "the long goodbye".', [("title", "Blood Simple")]),
        ("It is like “Blood Simple”, which is «No Country for Old Men».", [
            ("title", "Blood Simple"),
            ("title", "No Country for Old Men"),
        ]),
        ('They call it "dark", "Serene" and "A film that is loved by everybody".', []),
        ("It was directed by Joel Coen and Ethan Coen.", [("name", "Joel Coen"), ("name", "Ethan Coen")]),
        ("Frances McDormand stars. The Crime Drama is grim.", [("name", "Frances McDormand")]),
        ("The Fargo Thriller. Its Crime. They like Dramas and Thrillers.", []),
        ("He met J. R. Smith in the House of Cards.", [("name", "J. R. Smith"), ("name", "House of Cards")]),
        ("Although Fargo is dark, Critics Like it, The Critics too.", []),
        ("It plays in Venice. The Americans like it.", []),
    ],
)  # fmt: skip
def test_what_is_named_and_not_asked(answer: str, expected: list[tuple[str, str]]) -> None:
    assert named(answer) == expected


def test_names_are_looked_for_where_nouns_have_no_capital() -> None:
    german = "Der Film „Blood Simple“ von 1984 handelt von Jerry Lundegaard und dem Großen Geld."
    assert named(german, QUESTION, "de") == [("year", "1984"), ("title", "Blood Simple")]
    assert named("這部電影像《千與千尋》,於2001年。", QUESTION, "zh") == [("year", "2001"), ("title", "千與千尋")]
    assert named("《Fargo》很黑暗。", QUESTION, "zh") == []


def test_all_messages_are_the_question_and_choices_have_no_words() -> None:
    prompt = Prompt((("user", QUESTION), ("assistant", "By Joel Coen."), ("user", "And then?")), 64)
    assert inventions_of("Joel Coen went on.", prompt) == []
    (choice, *_) = number_prompts(TextsConfig(), NumbersConfig(), {"title": "Fargo"})
    assert inventions_of("A 1999", choice) == []


def test_answers_are_counted_once_with_each_kind() -> None:
    counted = Faithfulness()
    assert math.isnan(counted.rate)
    for answer in (GOOD, "In 2001 and 2002 Joel Coen.", "In 2001."):
        counted.add(inventions(answer, QUESTION))
    assert counted.document() == {"answers": 3, "unfaithful": 2, "year": 2, "title": 0, "name": 1}
    assert counted.rate == pytest.approx(1 / 3)


def test_where_it_is_asked_for_an_unfaithful_answer_has_a_second_try() -> None:
    invented = GOOD.replace("a dark comedy", "a dark comedy by Joel Coen of 2001")
    prompt = Prompt((("user", QUESTION),), max_tokens=64)
    assert problem(Completion(invented, 50, 30), prompt) is None
    assert problem(Completion(invented, 50, 30), prompt, faithful=True) == "unfaithful"
    assert problem(Completion(GOOD, 50, 30), prompt, faithful=True) is None
    assert problem(Completion("", 50, 30), prompt, faithful=True) == "empty"

    class Session:
        def __init__(self, *answers: str) -> None:
            self.answers = list(answers)

        def ask_all(self, prompts: Sequence[Prompt], progress_label: str) -> Answers:
            return Answers(tuple(Completion(self.answers.pop(0), 50, 30) for _ in prompts))

    cured = usable(Session(invented, GOOD), [prompt], "items", faithful=True)
    assert (cured.texts, cured.problems, cured.left) == ((GOOD,), {"unfaithful": 1}, {})
    bad = usable(Session(invented, invented), [prompt], "items", faithful=True)
    assert (bad.texts, bad.states, bad.left) == ((None,), ("bad",), {"unfaithful": 1})
    assert usable(Session(invented), [prompt], "items").texts == (invented,)


def test_the_setting_is_off_and_leaves_no_trace_where_it_is() -> None:
    assert "faithful" not in KnowledgeConfig().model_dump(mode="json")
    assert KnowledgeConfig(faithful=True).model_dump(mode="json")["faithful"] is True
