"""A back end in this process whose answers and token counts depend on the prompt alone, and which counts its calls."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from offline.llm.account import Account
from offline.llm.batches import Backoff
from offline.llm.budget import Prices
from offline.llm.cache import ResponseCache, cache_key
from offline.llm.client import LLMClient
from offline.llm.protocol import Completion, Prompt

MODEL = "fake"


def ask(text: str, max_tokens: int = 16) -> Prompt:
    return Prompt((("user", text),), max_tokens)


def key(prompt: Prompt) -> str:
    return cache_key(MODEL, prompt)


def usual_tokens(prompt: Prompt) -> tuple[int, int]:
    """The tokens that an estimate without experience expects of a prompt, and an answer that leaves some unused."""
    return 32 + -(-prompt.characters // 4), prompt.max_tokens // 2


class FakeBackend:
    """``tokens`` gives (prompt, completion) tokens, ``reply`` the text; ``failing`` raises for prompts with a text."""

    model_id = MODEL

    def __init__(
        self,
        batch_size: int = 1,
        tokens: Callable[[Prompt], tuple[int, int]] = usual_tokens,
        reply: Callable[[Prompt], str] = lambda prompt: f"answer to <{prompt.messages[-1][1]}>",
    ) -> None:
        self.batch_size = batch_size
        self.paid: Counter[Prompt] = Counter()
        self.calls = 0
        self.most_prompts = 0  # in one call
        self.failing: dict[str, Exception] = {}
        self._tokens = tokens
        self._reply = reply

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self.calls += 1
        self.most_prompts = max(self.most_prompts, len(prompts))
        for _ in range(self.calls % 3 + 1):  # calls end in another order than they begin
            await asyncio.sleep(0)
        for prompt in prompts:
            if prompt.messages[-1][1] in self.failing:
                raise self.failing[prompt.messages[-1][1]]
        self.paid.update(prompts)
        return [Completion(self._reply(prompt), *self._tokens(prompt)) for prompt in prompts]

    async def close(self) -> None:
        pass

    @property
    def tokens_paid(self) -> int:
        return sum(sum(self._tokens(prompt)) * times for prompt, times in self.paid.items())


async def at_once(seconds: float) -> None:
    await asyncio.sleep(0)


def new_account(price_prompt: float = 0.0, price_completion: float = 0.0) -> Account:
    return Account(MODEL, Prices(price_prompt, price_completion))


def plain_client(backend: FakeBackend, cache: ResponseCache, concurrency: int = 2) -> LLMClient:
    """A client without budget that waits for nothing."""
    return LLMClient(backend, cache, new_account(), concurrency, 2, backoff=Backoff(sleep=at_once), give_up_after=3)
