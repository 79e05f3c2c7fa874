"""Answers to prompts with choices: what a list of likely tokens says of them, and what is stored."""

import math

import pytest

from offline.llm.cache import ResponseCache, cache_key
from offline.llm.choices import ChoiceAnswer
from offline.llm.protocol import Completion, Prompt
from tests.offline.llm.fakes import FakeBackend, plain_client

DIGITS = ("1", "2", "3")


def about(item: str, question: str) -> Prompt:
    return Prompt((("user", item), ("assistant", "Yes."), ("user", question)), 1, choices=DIGITS)


def test_tokens_are_choices_by_their_text_without_white_space() -> None:
    answer = ChoiceAnswer.of_listed({"1": 0.25, " 1": 0.25, "2": 0.125, "3\n": 0.0625, "The": 0.25, "11": 0.01}, DIGITS)
    assert answer == ChoiceAnswer((0.5, 0.125, 0.0625))
    assert answer.mass == 0.6875


@pytest.mark.parametrize(
    ("listed", "unlisted"),
    [
        ({"1": 0.5, "The": 0.25, "A": 0.125}, 0.125),  # no more than the least of the list
        ({"1": 0.5, "2": 0.4375}, 0.0625),  # nor than what is left
        ({}, 1.0),
    ],
)
def test_what_is_not_listed_is_bounded(listed: dict[str, float], unlisted: float) -> None:
    answer = ChoiceAnswer.of_listed(listed, DIGITS)
    assert answer.probabilities[2] == 0
    assert answer.unlisted == unlisted


def test_a_text_gives_the_answer_back() -> None:
    answer = ChoiceAnswer((1 / 3, 1e-9, 0.5), 1 / 7)
    again = ChoiceAnswer.parse(answer.text(DIGITS), DIGITS)
    assert again is not None
    assert (*again.probabilities, again.unlisted) == pytest.approx((1 / 3, 1e-9, 0.5, 1 / 7), rel=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[]",
        '{"choices": {"1": 0.1}, "unlisted": 0}',
        '{"choices": {"1": 0.1, "2": -0.1, "3": 0}, "unlisted": 0}',
        '{"choices": {"1": 0.6, "2": 0.6, "3": 0}, "unlisted": 0}',
        '{"choices": {"1": NaN, "2": 0, "3": 0}, "unlisted": 0}',
        '{"choices": {"1": 0.1, "2": 0.1, "3": 0}}',
        "[" * 100_000,
    ],
)
def test_no_other_text_is_an_answer(text: str) -> None:
    assert ChoiceAnswer.parse(text, DIGITS) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"choices": ("1",)},
        {"choices": ("1", "1")},
        {"choices": ("1", "")},
        {"choices": DIGITS, "max_tokens": 2},
        {"choices": DIGITS, "temperature": 0.5},
        {"choices": DIGITS, "repetition_penalty": 1.1},
    ],
)
def test_choices_that_nobody_could_weigh_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="choices"):
        Prompt((("user", "hi"),), **{"max_tokens": 1, **settings})  # type: ignore[arg-type]


def test_choices_are_a_part_of_the_question_and_change_no_other() -> None:
    plain = Prompt((("user", "hi"),), 1)
    keys = {
        cache_key("m", prompt) for prompt in (plain, about("hi", "?"), Prompt((("user", "hi"),), 1, choices=DIGITS))
    }
    assert len(keys) == 3
    # as it was before there were choices: what was paid then stays paid
    assert cache_key("m", plain) == "ea1b35a1846c2f9cf81b83ace659ff7e32c9d62dd6eb2a90ab22949056dff15f"
    assert repr(plain) == repr(Prompt((("user", "hi"),), 1, choices=DIGITS)), "forms of spaces stay, too"


async def test_questions_about_an_item_are_neighbours(cache: ResponseCache) -> None:
    asked: list[str] = []

    def reply(prompt: Prompt) -> str:
        asked.append(prompt.messages[0][1])
        return ChoiceAnswer((0.5, 0.25, 0.25)).text(DIGITS)

    prompts = [about(item, "?" * (at % 7 + 1)) for at in range(7) for item in ("abc", "b", "ad")]
    await plain_client(FakeBackend(reply=reply), cache, concurrency=1).ask_all(prompts, "numbers")
    runs = [item for at, item in enumerate(asked) if at == 0 or asked[at - 1] != item]
    assert sorted(runs) == ["abc", "ad", "b"]


async def test_answers_are_stored_like_others(cache: ResponseCache) -> None:
    backend = FakeBackend(reply=lambda prompt: ChoiceAnswer((0.5, 0.25, 0.125)).text(DIGITS), tokens=lambda _: (9, 1))
    first = await plain_client(backend, cache).ask_all([about("a", "?")], "numbers")
    client = plain_client(backend, cache)
    again = await client.ask_all([about("a", "?")], "numbers")
    assert again.completions == first.completions == (Completion(first.texts[0] or "", 9, 1),)
    assert (client.account.cache_hits, backend.calls) == (1, 1)
    parsed = ChoiceAnswer.parse(again.texts[0] or "", DIGITS)
    assert parsed is not None
    assert math.isclose(parsed.mass, 0.875)
