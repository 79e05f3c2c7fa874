"""Token estimates: documented constants first, then what was learnt."""

import random

from offline.llm.budget import TokenEstimate
from offline.llm.protocol import Completion
from tests.offline.llm.fakes import ask


def test_without_experience_the_constants_hold() -> None:
    estimate = TokenEstimate()
    assert estimate.prompt_tokens(ask("x" * 400)) == 32 + 100
    assert estimate.prompt_tokens(ask("x")) == 33
    assert estimate.completion_tokens(ask("x", 64)) == 64.0


def test_few_answers_correct_the_constant_and_many_the_slope() -> None:
    estimate = TokenEstimate()
    estimate.learn([(ask("x" * 100), Completion("", 35, 3))])
    assert estimate.prompt_tokens(ask("x" * 100)) == 35
    assert estimate.prompt_tokens(ask("x" * 140)) == 45
    estimate.learn((ask("x" * n), Completion("", 10 + n // 2, 3)) for n in range(0, 2000, 2))
    assert abs(estimate.prompt_tokens(ask("x" * 4000)) - 2010) <= 2


def test_answers_are_estimated_by_what_they_may_take() -> None:
    estimate = TokenEstimate()
    estimate.learn([(ask("a", 64), Completion("", 9, 30)), (ask("b", 64), Completion("", 9, 41))])
    estimate.learn([(ask("c", 64), Completion("no usage", 0, 0))])
    assert estimate.completion_tokens(ask("d", 64)) == 35.5
    assert estimate.completion_tokens(ask("d", 128)) == 128.0


def test_no_prompt_is_ever_free() -> None:
    estimate = TokenEstimate()
    chance = random.Random(2)
    # steep: a straight line through these would be negative for short prompts
    estimate.learn(
        (ask("x" * n), Completion("", max(1, 3 * n - 900), 1)) for n in chance.choices(range(300, 600), k=99)
    )
    assert estimate.prompt_tokens(ask("x")) >= 1
    level = TokenEstimate()
    level.learn((ask("x" * 50), Completion("", 20, 1)) for _ in range(30))  # one length says nothing of the slope
    assert level.prompt_tokens(ask("x" * 50)) == 20
    assert level.prompt_tokens(ask("x" * 90)) == 30
