"""Partial runs: an end point that throttles, refuses or goes down costs what it did not answer, and nothing else."""

from pathlib import Path

import pytest

from offline.llm.cache import CacheError, ResponseCache
from offline.llm.config import LLMConfig
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import UNTRIED, PermanentError, TransientError, UnusableBackendError
from offline.llm.session import open_session
from tests.offline.llm.chat_server import ChatServer, answer_to, running_server, status
from tests.offline.llm.fakes import FakeBackend, ask, plain_client
from tests.offline.llm.test_client import Setup

TEXTS = [f"film {n:02}" for n in range(40)]
PROMPTS = [ask(text) for text in TEXTS]
ANSWERS = [answer_to(text) for text in TEXTS]


async def test_failures_leave_gaps_and_raise_nothing(cache: ResponseCache) -> None:
    backend = FakeBackend(batch_size=4)
    backend.failing = {"b": PermanentError("too long"), "d": PermanentError("filtered")}
    client = plain_client(backend, cache)
    answers = await client.ask_all([ask(text) for text in "abcdab"], "gaps")
    assert answers.texts == ["answer to <a>", None, "answer to <c>", None, "answer to <a>", None]
    assert answers.absent == {
        1: "PermanentError: too long",
        3: "PermanentError: filtered",
        5: "PermanentError: too long",
    }
    assert answers.stopped is None
    assert not answers.complete
    assert list(client.absent.values()) == ["PermanentError: too long", "PermanentError: filtered"]
    backend.failing = {}
    assert (await client.ask_all([ask("b")], "again")).complete
    assert list(client.absent.values()) == ["PermanentError: filtered"], "what was answered later is not absent"


@pytest.mark.parametrize(
    ("failure", "stopped"),
    [
        (UnusableBackendError("no such model"), "no such model"),
        (TransientError("down"), "3 calls in a row failed, the last with: down"),
        (TransientError("throttled", retry_after=3600.0), "the server asks to wait for 3600 s: throttled"),
    ],
)
async def test_stored_answers_come_back_when_the_end_point_does_not(
    cache: ResponseCache, failure: Exception, stopped: str
) -> None:
    await plain_client(FakeBackend(), cache).ask_all(PROMPTS[:5], "before")
    backend = FakeBackend()
    backend.failing = dict.fromkeys(TEXTS, failure)
    client = plain_client(backend, cache, concurrency=1)
    answers = await client.ask_all(PROMPTS, "stopped")
    assert answers.stopped == stopped
    assert [text is not None for text in answers.texts] == [True] * 5 + [False] * 35
    assert list(answers.absent) == list(range(5, 40))
    calls = backend.calls
    # the run is stopped for good: the next lists of a job return at once what is stored
    later = await client.ask_all([*PROMPTS[3:7], ask("new")], "later")
    assert backend.calls == calls
    assert [text is not None for text in later.texts] == [True, True, False, False, False]
    assert later.absent == dict.fromkeys((2, 3, 4), UNTRIED)
    assert later.stopped == stopped
    assert len(client.absent) == 36


async def test_a_server_that_asks_for_an_hour_is_asked_once(server: ChatServer, cache: ResponseCache) -> None:
    for text in TEXTS:
        server.fail(text, status(429, retry_after="3600"))
    setup = Setup(server, cache)
    answers = await setup.client(concurrency=1).ask_all(PROMPTS, "patience")
    assert answers.stopped is not None
    assert "asks to wait for 3600 s" in answers.stopped
    assert server.asked.total() == 1
    assert setup.slept == []
    await setup.backend.close()


async def test_throttling_is_waited_for_and_makes_the_run_partial_at_worst(
    server: ChatServer, cache: ResponseCache
) -> None:
    for text in TEXTS[:10]:
        server.fail(text, status(429, retry_after="2"))  # once
    for text in TEXTS[10:13]:
        server.fail(text, *[status(429, retry_after="2")] * 3)  # as often as we try
    setup = Setup(server, cache)
    answers = await setup.client(concurrency=4, max_attempts=3).ask_all(PROMPTS, "throttled")
    assert sorted(answers.absent) == [10, 11, 12]
    assert all("429" in reason for reason in answers.absent.values())
    assert min(setup.slept) == 2.0
    before = server.asked.copy()
    assert (await setup.client().ask_all(PROMPTS, "the next run")).texts == ANSWERS
    assert server.asked - before == dict.fromkeys(TEXTS[10:13], 1)
    await setup.backend.close()


async def test_a_server_that_goes_down_in_the_middle_loses_nothing_and_the_next_run_asks_the_rest(
    cache: ResponseCache,
) -> None:
    with running_server() as server:
        server.dies_after = 17
        setup = Setup(server, cache)
        answers = await setup.client(concurrency=3, max_attempts=2, give_up=4).ask_all(PROMPTS, "down")
        await setup.backend.close()
        answered = set(server.answered)
    assert answers.stopped is not None
    assert "calls in a row failed" in answers.stopped
    assert len(answered) == 17
    assert {text for text, answer in zip(TEXTS, answers.texts, strict=True) if answer is not None} == answered
    with running_server() as server:
        setup = Setup(server, cache)
        assert (await setup.client().ask_all(PROMPTS, "up again")).texts == ANSWERS
        assert server.asked == dict.fromkeys(set(TEXTS) - answered, 1)
        await setup.backend.close()


async def test_defects_and_full_disks_are_still_raised(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "answers.sqlite3") as cache:
        backend = FakeBackend()
        backend.failing["b"] = ZeroDivisionError("a defect")
        with pytest.raises(ZeroDivisionError):
            await plain_client(backend, cache).ask_all([ask("a"), ask("b")], "defect")
        cache._connection.execute("PRAGMA max_page_count=5")
        with pytest.raises(CacheError, match="full"):
            await plain_client(FakeBackend(), cache).ask_all([ask("x" * 3000 + str(n)) for n in range(64)], "full")


def test_a_session_says_that_its_run_was_partial(server: ChatServer, tmp_path: Path) -> None:
    server.fail("film 07", status(400))
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny")
    with open_session(config, tmp_path) as llm:
        assert llm.ask_all(PROMPTS[:5], "first").complete
        assert llm.absent == 0
        assert not llm.ask_all(PROMPTS[5:10], "second").complete
        assert llm.ask_all(PROMPTS[10:15], "third").complete
        assert llm.absent == 1
        assert "400" in llm.account.reason
        assert llm.account.summary("films").endswith(f"; 1 absent ({llm.account.reason})")
    with open_session(config, tmp_path) as llm:
        assert llm.ask_all(PROMPTS, "next").texts == ANSWERS
    assert (llm.account.absent, llm.account.reason) == (0, "")


def test_a_wrong_key_leaves_the_stored_answers_usable(server: ChatServer, tmp_path: Path) -> None:
    config = LLMConfig(backend="openai", base_url=server.base_url, model="tiny")
    with open_session(config, tmp_path) as llm:
        llm.ask_all(PROMPTS[:3], "films")
    wrong = LLMConfig(backend="openai", base_url=server.base_url, model="tiny", api_key_env="LORANK_TEST_NOT_SET")
    with open_session(wrong, tmp_path) as llm:
        answers = llm.ask_all(PROMPTS, "films")
    assert answers.texts == ANSWERS[:3] + [None] * 37
    assert answers.stopped is not None
    assert "LORANK_TEST_NOT_SET" in answers.stopped


async def test_a_dead_address_is_given_up_in_bounded_attempts(cache: ResponseCache, server: ChatServer) -> None:
    setup = Setup(server, cache)
    setup.backend = OpenAIBackend("http://127.0.0.1:9/v1", "tiny")
    answers = await setup.client(concurrency=2, max_attempts=2, give_up=4).ask_all(PROMPTS, "dead")
    assert len(answers.absent) == 40
    assert setup.account.calls <= 2 * (4 + 1), "at most the calls in flight go on"
    await setup.backend.close()
