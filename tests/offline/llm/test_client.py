"""The client against a real server: order, cache, bounds, retries, and that no failure loses what was paid."""

import asyncio
import random
from collections import Counter

import pytest

from offline.data.catalogue import lasting
from offline.llm.account import Account
from offline.llm.batches import Backoff
from offline.llm.budget import Prices
from offline.llm.cache import ResponseCache, cache_key
from offline.llm.client import LLMClient
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import UNTRIED, Completion, PermanentError, Prompt
from tests.offline.llm.chat_server import ChatServer, answer_to, garbage, hang, status


def ask(text: str) -> Prompt:
    return Prompt((("user", text),), max_tokens=16)


def key(text: str) -> str:
    return cache_key("tiny", ask(text))


class Setup:
    """A client on the test server whose waits are recorded instead of slept."""

    def __init__(self, server: ChatServer, cache: ResponseCache) -> None:
        self.backend = OpenAIBackend(server.base_url, "tiny", timeout_seconds=30)
        self.cache = cache
        self.account = Account("tiny", Prices(1.0, 2.0))
        self.slept: list[float] = []

    def client(
        self, concurrency: int = 4, max_attempts: int = 3, use_cache: bool = True, give_up: int = 20
    ) -> LLMClient:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            await asyncio.sleep(0)

        return LLMClient(
            self.backend,
            self.cache,
            self.account,
            concurrency,
            max_attempts,
            use_cache=use_cache,
            backoff=Backoff(sleep=sleep, source=random.Random(5)),
            give_up_after=give_up,
        )


@pytest.fixture
async def setup(server: ChatServer, cache: ResponseCache) -> "Setup":
    return Setup(server, cache)


async def test_answers_come_in_the_order_of_the_prompts(server: ChatServer, setup: Setup) -> None:
    delays = random.Random(1)
    server.delay = lambda text: delays.random() * 0.02
    texts = [f"{n} " + "x" * (n * 37 % 50) for n in range(60)]
    assert (await setup.client().ask_all([ask(text) for text in texts], "order")).texts == [answer_to(t) for t in texts]
    assert (await setup.client().ask_all([], "nothing")).texts == []
    await setup.backend.close()


async def test_equal_prompts_and_known_prompts_are_not_asked(server: ChatServer, setup: Setup) -> None:
    prompts = [ask(text) for text in ("a", "b", "a", "a", "c")]
    expected = [answer_to(text) for text in ("a", "b", "a", "a", "c")]
    assert (await setup.client().ask_all(prompts, "first")).texts == expected
    assert server.asked == {"a": 1, "b": 1, "c": 1}
    assert (await setup.client().ask_all([*prompts, ask("d")], "second")).texts == [*expected, answer_to("d")]
    assert server.asked == {"a": 1, "b": 1, "c": 1, "d": 1}
    account = setup.account
    assert (account.prompts, account.duplicates, account.cache_hits, account.paid, account.calls) == (11, 4, 3, 4, 4)
    assert (account.prompt_tokens, account.completion_tokens, account.cost) == (4, 28, (4 * 1.0 + 28 * 2.0) / 1e6)
    await setup.backend.close()


async def test_as_many_calls_as_allowed_and_no_more(server: ChatServer, setup: Setup) -> None:
    server.gate = 5  # nobody is answered before five calls are in flight, so fewer would never finish
    server.delay = lambda text: 0.002
    await setup.client(concurrency=5).ask_all([ask(str(n)) for n in range(40)], "bound")
    assert server.most_in_flight == 5
    await setup.backend.close()


async def test_transient_failures_are_retried_with_growing_waits(server: ChatServer, setup: Setup) -> None:
    server.fail("a", status(429, retry_after="7"), status(503), garbage, status(408))
    assert (await setup.client(max_attempts=5).ask_all([ask("a")], "retry")).texts == [answer_to("a")]
    assert server.asked["a"] == 5
    assert setup.slept[0] == 7.0
    for waited, full in zip(setup.slept[1:], (1.0, 2.0, 4.0), strict=True):
        assert full / 2 <= waited <= full
    assert (setup.account.calls, setup.account.retries, setup.account.failures, setup.account.paid) == (5, 4, 0, 1)
    await setup.backend.close()


async def test_a_hanging_call_is_given_up_and_asked_again(server: ChatServer, setup: Setup) -> None:
    setup.backend = OpenAIBackend(server.base_url, "tiny", timeout_seconds=0.5)
    server.fail("a", hang)
    assert (await setup.client().ask_all([ask("a"), ask("b")], "hang")).texts == [answer_to("a"), answer_to("b")]
    assert setup.account.retries == 1
    await setup.backend.close()


async def test_failures_are_reported_together_after_the_rest_was_stored(server: ChatServer, setup: Setup) -> None:
    server.fail("broken", *[status(500)] * 3)
    server.fail("refused", status(400))
    texts = ["a", "broken", "b", "refused", "broken", "c"]
    answers = await setup.client().ask_all([ask(text) for text in texts], "films")
    assert sorted(answers.absent) == [1, 3, 4]
    assert "500" in answers.absent[1]
    assert "400" in answers.absent[3]
    assert answers.stopped is None
    assert (server.asked["broken"], server.asked["refused"]) == (3, 1)
    assert setup.account.failures == 2
    # the next run asks only for what is missing
    assert (await setup.client().ask_all([ask(text) for text in texts], "films")).texts == [answer_to(t) for t in texts]
    assert server.asked == {"a": 1, "b": 1, "c": 1, "broken": 4, "refused": 2}
    await setup.backend.close()


async def test_a_refused_key_stops_the_run(server: ChatServer, setup: Setup) -> None:
    prompts = [ask(f"{n:02}") for n in range(50)]
    # equal lengths are asked in falling order of their cache keys
    first = max((key(f"{n:02}"), f"{n:02}") for n in range(50))[1]
    server.fail(first, status(401))
    answers = await setup.client(concurrency=1).ask_all(prompts, "films")
    assert answers.stopped is not None
    assert "answered 401: " in answers.stopped
    assert lasting(answers.stopped).endswith("answered 401")  # what a server says may repeat the prompt
    assert lasting(setup.account.reason) == lasting(answers.stopped)
    assert Counter(answers.absent.values())[UNTRIED] == 49
    assert "answered 401" in answers.absent[int(first)]
    assert sum(server.asked.values()) == 1
    await setup.backend.close()


async def test_a_server_that_is_down_stops_the_run(cache: ResponseCache, server: ChatServer, setup: Setup) -> None:
    setup.backend = OpenAIBackend("http://127.0.0.1:9/v1", "tiny")  # the discard port: refused
    client = setup.client(concurrency=1, max_attempts=2, give_up=4)
    answers = await client.ask_all([ask(str(n)) for n in range(30)], "x")
    assert str(answers.stopped).startswith("4 calls in a row failed")
    assert Counter(answers.absent.values())[UNTRIED] == 26
    assert setup.account.calls == 8
    await setup.backend.close()


async def test_no_cache_asks_again_and_renews_the_cache(server: ChatServer, setup: Setup) -> None:
    setup.cache.put_many({key("a"): Completion("outdated", 1, 1)})
    assert (await setup.client().ask_all([ask("a")], "cached")).texts == ["outdated"]
    fresh = setup.client(use_cache=False)
    for _ in range(2):
        assert (await fresh.ask_all([ask("a")], "live")).texts == [answer_to("a")]
    assert server.asked["a"] == 2
    assert (await setup.client().ask_all([ask("a")], "cached")).texts == [answer_to("a")]
    await setup.backend.close()


async def test_a_spot_check_neither_reads_nor_writes_the_cache(server: ChatServer, setup: Setup) -> None:
    setup.cache.put_many({key("a"): Completion("stored", 1, 1)})
    server.fail("a", status(500))
    assert await setup.client().complete_live(ask("a")) == Completion(answer_to("a"), 1, 7)
    await setup.client().complete_live(ask("b"))
    assert setup.cache.get_many([key("a"), key("b")]) == {key("a"): Completion("stored", 1, 1)}
    server.fail("c", status(400))
    with pytest.raises(PermanentError):
        await setup.client().complete_live(ask("c"))
    assert (setup.account.prompts, setup.account.paid, setup.account.failures) == (3, 2, 1)
    await setup.backend.close()


async def test_a_cancelled_run_keeps_what_was_answered(server: ChatServer, setup: Setup) -> None:
    for n in range(4):
        server.fail(f"slow {n}", hang)
    texts = ["slow 0", "slow 1", "slow 2", "slow 3", *"abcdefgh"]  # the longest are asked first and block 4 of 6
    run = asyncio.create_task(setup.client(concurrency=6).ask_all([ask(text) for text in texts], "cancel"))
    while setup.account.paid < 8:  # noqa: ASYNC110 - a counter, not an event
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert setup.cache.get_many([key(text) for text in "abcdefgh"]).keys() == {key(text) for text in "abcdefgh"}
    await setup.backend.close()


def test_waits_grow_to_a_bound_and_honour_the_server_within_reason() -> None:
    backoff = Backoff(first=0.5, longest=30.0, longest_retry_after=300.0)
    for attempt in range(1, 2000):
        full = min(30.0, 0.5 * 2.0 ** min(attempt - 1, 60))
        assert full / 2 <= backoff.delay(attempt, None) <= full
    assert backoff.delay(1, 12.0) == 12.0
    assert backoff.delay(1, 86400.0) == 300.0
    assert backoff.delay(9, 1.0) >= 15.0
