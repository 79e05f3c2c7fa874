"""Prompts that are refused for good hold up one run; a back end that refuses everything holds up every run."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from offline.data.languages.english import ENGLISH
from offline.knowledge.quality import usable
from offline.llm.account import CACHE_FILE, Account
from offline.llm.batches import Backoff
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.config import LLMConfig
from offline.llm.protocol import UNTRIED, Completion, PermanentError, Prompt, TransientError, UnusableBackendError
from offline.llm.session import open_session
from tests.offline.llm.chat_server import ChatServer, status
from tests.offline.llm.fakes import FakeBackend, ask, at_once, new_account, plain_client

TEXTS = tuple("abcdefgh")
PROMPTS = [ask(text) for text in TEXTS]
TOO_LONG = PermanentError("too long")


class OneRun:
    """A client as one run of a job has it; ``refusing`` texts are refused."""

    def __init__(self, cache: ResponseCache, *refusing: str, batch_size: int = 1, use_cache: bool = True) -> None:
        self.backend = FakeBackend(batch_size)
        self.backend.failing = dict.fromkeys(refusing, TOO_LONG)
        self.account = new_account()
        self.client = LLMClient(
            self.backend, cache, self.account, 1, 1, use_cache=use_cache, backoff=Backoff(sleep=at_once)
        )

    async def refused(self, prompts: Sequence[Prompt] = PROMPTS) -> tuple[set[int], set[int]]:
        """Positions of what is refused and of what is absent."""
        answers = await self.client.ask_all(prompts, "films")
        counted = self.account
        asked = counted.duplicates + counted.cache_hits + counted.refused + counted.paid + counted.failures
        untried = sum(reason == UNTRIED for reason in answers.absent.values())
        assert counted.prompts == asked + untried, "every prompt is in one account"
        return set(answers.refused), set(answers.absent)


@pytest.mark.parametrize("batch_size", [1, 4])
async def test_what_was_refused_in_two_runs_is_asked_no_more(cache: ResponseCache, batch_size: int) -> None:
    first = OneRun(cache, "c", batch_size=batch_size)
    assert await first.refused() == (set(), {2})
    assert await first.refused() == (set(), {2}), "one run counts once"
    assert (first.account.absent, first.account.reason) == (1, "PermanentError: too long")
    second = OneRun(cache, "c", batch_size=batch_size)
    assert await second.refused() == ({2}, set())
    assert (second.account.failures, second.account.absent, second.account.reason) == (1, 0, "")
    third = OneRun(cache)
    assert await third.refused([*PROMPTS, ask("c"), ask("new")]) == ({2, 8}, set())
    assert third.backend.paid == {ask("new"): 1}
    assert (third.account.refused, third.account.cache_hits, third.account.duplicates) == (1, 7, 1)
    assert "1 refused in earlier runs" in third.account.summary("films")
    dry = LLMClient(FakeBackend(), cache, new_account(), dry_run=True)
    await dry.ask_all(PROMPTS, "films")
    assert (dry.cost_estimate.to_ask, dry.cost_estimate.cached) == (0, 8)
    assert (await third.client.ask_all(PROMPTS, "films")).refused == {2}


async def test_where_all_others_have_answers_one_of_them_is_asked_again(cache: ResponseCache) -> None:
    """Otherwise nobody could tell one refused prompt from a back end that refuses everything."""
    long = [ask(f"{text} and more") for text in TEXTS]
    assert (await OneRun(cache).refused(long)) == (set(), set())
    for settled in (False, True):
        run = OneRun(cache, "new")
        refused, absent = await run.refused([ask("new"), *long])
        assert (refused, absent) == (({0}, set()) if settled else (set(), {0}))
        assert run.backend.paid == {ask("a and more"): 1}
        assert (run.account.paid, run.account.failures) == (1, 1)


async def test_a_back_end_that_refuses_everything_blames_nobody(cache: ResponseCache) -> None:
    for _ in range(3):
        assert await OneRun(cache, *TEXTS).refused() == (set(), set(range(8)))
    await OneRun(cache).refused(PROMPTS[:4])  # it worked for a while
    for _ in range(3):
        run = OneRun(cache, *TEXTS)
        assert await run.refused() == (set(), {4, 5, 6, 7})
        assert run.backend.calls == 5, "four prompts, and once one that has an answer"
    assert await OneRun(cache).refused() == (set(), set())


async def test_parameters_that_are_refused_blame_no_prompt(cache: ResponseCache) -> None:
    class Picky(FakeBackend):
        async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
            if prompts[0].max_tokens > 16:
                raise PermanentError("max_tokens is too large")
            return await super().complete(prompts)

    prompts = [*PROMPTS, *(ask(text, 32) for text in TEXTS)]
    for _ in range(3):
        run = OneRun(cache)
        run.client.backend = Picky()
        assert await run.refused(prompts) == (set(), set(range(8, 16)))
    assert await OneRun(cache).refused(prompts) == (set(), set())


async def test_calls_in_flight_blame_nobody_for_a_credit_that_is_used_up(cache: ResponseCache) -> None:
    """Refusals come back at once, answers take their time: they were asked for before."""

    class Slow(FakeBackend):
        credit = 20

        async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
            if not self.credit:
                raise PermanentError("your credit is used up")
            self.credit -= 1
            await asyncio.sleep(0.01)
            return await super().complete(prompts)

    prompts = [ask(f"prompt {at}") for at in range(60)]
    for paid in (20, 40, 60):
        backend = Slow()
        client = LLMClient(backend, cache, new_account(), 16, 1, backoff=Backoff(sleep=at_once))
        answers = await client.ask_all(prompts, "films")
        assert (answers.refused, len(answers.absent)) == (frozenset(), 60 - paid)


async def test_a_credit_that_is_used_up_in_the_middle_blames_nobody(cache: ResponseCache) -> None:
    class Prepaid(FakeBackend):
        async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
            if self.calls >= 2:
                raise PermanentError("your credit is used up")
            return await super().complete(prompts)

    for paid in (2, 4, 6):
        run = OneRun(cache)
        run.client.backend = Prepaid()
        refused, absent = await run.refused()
        assert (refused, len(absent)) == (set(), 8 - paid)
    assert await OneRun(cache).refused() == (set(), set())


@pytest.mark.parametrize("error", [UnusableBackendError("no such model"), TransientError("busy")])
async def test_other_failures_are_no_refusals(cache: ResponseCache, error: Exception) -> None:
    for _ in range(3):
        run = OneRun(cache)
        run.backend.failing = {"a": error}
        refused, absent = await run.refused()
        assert refused == set()
        assert 0 in absent


async def test_without_the_cache_everything_is_asked_again(cache: ResponseCache) -> None:
    for _ in range(2):
        await OneRun(cache, "c").refused()
    assert await OneRun(cache, "c", use_cache=False).refused() == ({2}, set())
    assert await OneRun(cache, use_cache=False).refused() == (set(), set())
    assert await OneRun(cache).refused() == (set(), set()), "now it has an answer"


def test_what_a_server_said_of_a_prompt_is_not_kept(server: ChatServer, tmp_path: Path) -> None:
    server.fail("film c", *[status(400)] * 2)
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny")
    prompts = [ask(f"film {text}") for text in "abc"]
    accounts: list[Account] = []
    for _ in range(3):
        with open_session(config, tmp_path) as llm:
            llm.ask_all(prompts, "films")
        accounts.append(llm.account)
    assert server.asked == {"film a": 2, "film b": 1, "film c": 2}  # a again, to see that the server answers
    assert [(account.failures, account.absent, account.refused) for account in accounts] == [
        (1, 1, 0),
        (1, 0, 0),
        (0, 0, 1),
    ]
    with open_session(config, tmp_path, dry_run=True) as llm:
        assert llm.ask_all(prompts, "films").refused == {2}
        assert (llm.cost_estimate.to_ask, llm.absent) == (0, 0)
    with ResponseCache(tmp_path / CACHE_FILE) as cache:
        assert cache.export_jsonl_gz(tmp_path / "export.jsonl.gz") == 2
    assert b"told to fail" not in (tmp_path / CACHE_FILE).read_bytes()


def test_a_refused_prompt_is_bad_and_has_no_second_try(cache: ResponseCache) -> None:
    def film(name: str) -> Prompt:
        return Prompt((("user", f'Describe the film "{name}" in two sentences: what it is about.'),), 64)

    def reply(prompt: Prompt) -> str:
        return "" if "Alien" in prompt.messages[0][1] else "A film about a small town. It is for all who like home."

    class Asks:
        def __init__(self) -> None:
            self.backend = FakeBackend(reply=reply)
            again = film("Alien").messages[0][1] + f"\n{ENGLISH.sentences.second_try}"
            self.backend.failing = {film("Heat").messages[0][1]: TOO_LONG, again: TOO_LONG}
            client = plain_client(self.backend, cache)
            self.ask_all = lambda prompts, label: asyncio.run(client.ask_all(prompts, label))

    prompts = [film(name) for name in ("Fargo", "Heat", "Alien")]
    first = usable(Asks(), prompts, "items")
    assert first.states == ("ok", "absent", "absent")
    second = usable(Asks(), prompts, "items")
    assert second.states == ("ok", "bad", "bad")
    assert (second.problems, second.left) == ({"empty": 1}, {"refused": 2})
    assert "2 bad (2 refused), 0 absent; asked again: 1 empty" in second.summary()
    third = Asks()
    assert usable(third, prompts, "items") == second
    assert third.backend.calls == 0
