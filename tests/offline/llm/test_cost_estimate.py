"""Plans: what a run would ask and take, without asking; token estimates by constants, then by what was learnt."""

import random
from pathlib import Path

import pytest

from offline.llm.account import Speed, open_accounts
from offline.llm.budget import CostEstimate, TokenEstimate
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.config import LLMConfig
from offline.llm.protocol import DRY_RUN, Completion, PermanentError
from offline.llm.session import open_session
from tests.offline.llm.chat_server import ChatServer, answer_to
from tests.offline.llm.fakes import FakeBackend, ask, new_account, plain_client


def dry_client(backend: FakeBackend, cache: ResponseCache, rate: float | None = None) -> LLMClient:
    return LLMClient(backend, cache, new_account(1.0, 2.0), dry_run=True, speed=Speed(rate))


async def test_a_plan_counts_what_is_new_once(cache: ResponseCache) -> None:
    await plain_client(FakeBackend(), cache).ask_all([ask("a" * 100), ask("b" * 100)], "before")
    backend = FakeBackend(batch_size=2)
    client = dry_client(backend, cache, rate=4.0)
    await client.ask_all([ask(letter * 100) for letter in "abccde"], "items")
    # 57 prompt tokens each, as the two known ones had, and 8 answer tokens
    assert client.cost_estimate == CostEstimate(6, 2, 3, 2, 3 * 57, 3 * 8, 3 * (57 + 16) / 1e6, 6.0)
    assert client.cost_estimate.summary() == (
        "3 of 6 prompts to ask in 2 calls, 2 from cache, about 171 tokens to read and 24 to write, cost 0.0002"
    )
    assert backend.calls == 0


async def test_a_dry_run_returns_what_is_stored_and_adds_up_the_rest(cache: ResponseCache) -> None:
    await plain_client(FakeBackend(), cache).ask_all([ask("a"), ask("b")], "before")
    backend = FakeBackend()
    client = dry_client(backend, cache)
    first = await client.ask_all([ask("a"), ask("c"), ask("d")], "items")
    assert first.texts == ["answer to <a>", None, None]
    assert first.absent == {1: DRY_RUN, 2: DRY_RUN}
    await client.ask_all([ask("b"), ask("d"), ask("e")], "partitions")  # d is estimate already
    estimate = client.cost_estimate
    assert (estimate.prompts, estimate.cached, estimate.to_ask, estimate.calls) == (6, 2, 3, 3)
    assert estimate.seconds is None, "no run told how fast the model is"
    with pytest.raises(PermanentError, match="a dry run asks nothing"):
        await client.complete_live(ask("a"))
    assert backend.calls == 0


def test_plans_add_up() -> None:
    estimate = CostEstimate(3, 1, 2, 2, 100, 30, 0.5, 4.0)
    assert estimate + estimate == CostEstimate(6, 2, 4, 4, 200, 60, 1.0, 8.0)
    assert estimate + CostEstimate() == estimate
    assert (estimate + CostEstimate(1, 0, 1, 1, 1, 1, 0.0, None)).seconds is None


def test_a_dry_session_calls_nobody_and_records_nothing(server: ChatServer, tmp_path: Path) -> None:
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny", price_completion_per_million=1e6)
    with open_session(config, tmp_path) as llm:
        llm.ask_all([ask("a"), ask("b")], "paid")
    rate = 14 / llm.account.seconds
    with open_session(config, tmp_path, dry_run=True, speed=lambda name: {"tiny": Speed(rate)}[name]) as llm:
        assert llm.ask_all([ask("a"), ask("c")], "dry").texts == [answer_to("a"), None]
        assert (llm.cost_estimate.to_ask, llm.cost_estimate.completion_tokens, llm.cost_estimate.cost) == (1, 7, 7.0)
        assert llm.cost_estimate.seconds == pytest.approx(7 / rate)
        assert llm.absent == 1
    assert server.asked == {"a": 1, "b": 1}
    assert open_accounts(tmp_path) == {}
    with open_session(config, tmp_path, use_cache=False, dry_run=True) as llm:
        assert llm.ask_all([ask("a"), ask("c")], "all anew").texts == [None, None]
        assert llm.cost_estimate.to_ask == 2


def test_without_experience_the_constants_hold() -> None:
    estimate = TokenEstimate()
    assert estimate.prompt_tokens(ask("x" * 400)) == 32 + 100
    assert estimate.prompt_tokens(ask("x")) == 33
    assert estimate.completion_tokens(ask("x", 64)) == 64.0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("x" * 400, 100), ("映" * 400, 300), ("ж" * 400, 200), ("é" * 400, 200), ("\U0001f600" * 400, 400)],
)
def test_characters_that_are_several_tokens_are_not_counted_as_a_quarter(text: str, tokens: int) -> None:
    assert TokenEstimate().prompt_tokens(ask(text)) == 32 + tokens


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
