"""The OpenAI back end against the server it was written for."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bench.vllm_server import VllmServer
from offline.llm.account import Account
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import PermanentError, Prompt, UnusableBackendError
from tests.vllm.conftest import CONTEXT


@pytest.fixture
async def backend(vllm: VllmServer) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(vllm.base_url, vllm.model)
    yield backend
    await backend.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(tmp_path / "answers.sqlite3") as cache:
        yield cache


def ask(text: str, max_tokens: int = 24) -> Prompt:
    return Prompt((("user", text),), max_tokens, repetition_penalty=1.1)


async def test_answers_with_its_token_counts(backend: OpenAIBackend) -> None:
    completion = (await backend.complete([ask("What is the capital of France?")]))[0]
    assert "Paris" in completion.text
    assert 5 < completion.prompt_tokens < 60
    assert 1 < completion.completion_tokens <= 24


async def test_a_prompt_beyond_the_context_is_permanent(backend: OpenAIBackend) -> None:
    with pytest.raises(PermanentError, match=str(CONTEXT)) as caught:
        await backend.complete([ask("word " * 2 * CONTEXT)])
    assert not isinstance(caught.value, UnusableBackendError)


async def test_an_unknown_model_stops_the_run(vllm: VllmServer) -> None:
    backend = OpenAIBackend(vllm.base_url, "another")
    with pytest.raises(UnusableBackendError, match="another"):
        await backend.complete([ask("hello")])
    await backend.close()


async def test_many_at_once_are_answered_and_paid_once(backend: OpenAIBackend, cache: ResponseCache) -> None:
    prompts = [ask(f"Name one film from the year {year}.", 16) for year in range(1960, 1992)] + [ask("Hello!", 16)] * 2
    account = Account(backend.model_id)
    client = LLMClient(backend, cache, account, concurrency=16)
    first = (await client.ask_all(prompts, "vLLM")).texts
    assert all(first)
    assert first[-1] == first[-2]
    assert (account.paid, account.duplicates, account.retries) == (33, 1, 0)
    assert (await client.ask_all(prompts, "vLLM again")).texts == first
    assert account.calls == 33
