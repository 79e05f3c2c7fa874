"""Batches: what goes together, and what one bad prompt, a defect or a full disk may cost its neighbours."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from offline.llm import batches
from offline.llm.account import Account
from offline.llm.cache import ResponseCache, cache_key
from offline.llm.client import LLMClient
from offline.llm.protocol import Completion, PermanentError, Prompt
from offline.progress import Progress
from tests.offline.llm.chat_server import answer_to
from tests.offline.llm.fakes import FakeBackend, plain_client


def ask(text: str) -> Prompt:
    return Prompt((("user", text),), max_tokens=16)


def key(text: str) -> str:
    return cache_key("tiny", ask(text))


class BatchBackend:
    """A back end in this process that takes batches and refuses what it is told to."""

    model_id = "tiny"
    batch_size = 8

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.refused: dict[str, Exception] = {}

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        texts = [prompt.messages[-1][1] for prompt in prompts]
        self.batches.append(texts)
        await asyncio.sleep(0)
        for text in texts:
            if text in self.refused:
                raise self.refused[text]
        return [Completion(answer_to(text), 1, 1) for text in texts if text != "forgotten"]

    async def close(self) -> None:
        pass


def batch_client(backend: BatchBackend, cache: ResponseCache, concurrency: int = 2) -> LLMClient:
    return LLMClient(backend, cache, Account("tiny"), concurrency, 1)


async def test_batches_hold_equal_parameters_and_similar_lengths(cache: ResponseCache) -> None:
    backend = BatchBackend()
    prompts = [Prompt((("user", "x" * (n % 40 + 1) + str(n)),), max_tokens=8 + n % 2) for n in range(80)]
    texts = (await batch_client(backend, cache, concurrency=1).ask_all(prompts, "batches")).texts
    assert texts == [answer_to(prompt.messages[0][1]) for prompt in prompts]
    assert [len(batch) for batch in backend.batches] == [8] * 10
    allowed = {prompt.messages[0][1]: prompt.max_tokens for prompt in prompts}
    for batch in backend.batches:
        assert len({allowed[text] for text in batch}) == 1
        assert len(batch[0]) - len(batch[-1]) <= 10, "a batch spans a tenth of the lengths"


async def test_one_bad_prompt_does_not_take_its_batch_with_it(cache: ResponseCache) -> None:
    backend = BatchBackend()
    backend.refused["bad"] = PermanentError("too long")
    texts = ["bad", *"abcdefghijk"]
    answers = await batch_client(backend, cache).ask_all([ask(text) for text in texts], "halves")
    assert answers.absent == {0: "PermanentError: too long"}
    assert len(cache.get_many([key(text) for text in texts])) == 11


@pytest.mark.parametrize("failure", [ValueError("a defect"), None])
async def test_a_defect_is_raised_as_it_is_and_loses_nothing_paid(
    cache: ResponseCache, failure: Exception | None
) -> None:
    backend = BatchBackend()
    if failure is not None:
        backend.refused["defective"] = failure
    worst = "forgotten" if failure is None else "defective"  # the longest, so asked in the first batch
    texts = [worst, *(f"{n:03}" for n in range(8, 40))]
    with pytest.raises(RuntimeError if failure is None else ValueError):
        await batch_client(backend, cache).ask_all([ask(text) for text in texts], "defect")
    answered = [text for batch in backend.batches if worst not in batch for text in batch]
    assert answered
    assert len(cache.get_many([key(text) for text in answered])) == len(answered)


async def test_a_full_disk_is_raised_as_it_is(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "answers.sqlite3") as cache:
        cache._connection.execute("PRAGMA max_page_count=4")
        backend = BatchBackend()
        prompts = [ask("x" * 3000 + str(n)) for n in range(64)]
        with pytest.raises(Exception, match="database or disk is full"):
            await batch_client(backend, cache).ask_all(prompts, "full")


def test_impossible_settings_are_refused(cache: ResponseCache) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LLMClient(BatchBackend(), cache, Account("tiny"), concurrency=0)


async def test_progress_is_shown_while_a_batch_takes_long(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call ends only once progress was shown twice."""
    shown = asyncio.Semaphore(0)
    monkeypatch.setattr(batches, "_TICK_SECONDS", 0.001)
    monkeypatch.setattr(Progress, "tick", lambda _: shown.release())

    class Slow(FakeBackend):
        async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
            await shown.acquire()
            await shown.acquire()
            return await super().complete(prompts)

    answers = await plain_client(Slow(), cache).ask_all([ask("a")], "items")
    assert answers.complete
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "nobody shows progress of work that is done"
