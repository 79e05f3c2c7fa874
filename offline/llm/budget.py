"""The cost of prompts: estimated before they are asked, bounded for a run, and reserved while they are asked."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from offline.llm.protocol import Completion, PermanentError, Prompt

BYTES_PER_TOKEN = 4.0
"""Of UTF-8: four letters of English, two of Russian, one character and a third of Chinese. Tokenizers whose vocabulary
is mostly English need up to four times as many tokens for other scripts; the line below learns that from answers."""
TEMPLATE_TOKENS = 32.0
"""Tokens that a chat template adds to a prompt, with the default system message that many of them bring. With SmolLM2
on the 6,268 prompts of MovieLens-100K: 32.7 tokens and 3.90 bytes per token."""

_ENOUGH = 20  # prompts from which a slope is fitted; fewer only correct the constant


class TokenEstimate:
    """Prompt tokens as a line over bytes; completion tokens as a mean per ``max_tokens``.

    A line, because a ratio of bytes to tokens mixes up the template with the text: on those 6,268 prompts, of two
    kinds, it is wrong by 12.6 tokens on average, the line by 3.4. Without anything learnt: the constants above, and
    answers of the full ``max_tokens``.
    """

    def __init__(self) -> None:
        self._count = 0
        self._x = self._y = self._xx = self._xy = 0.0
        self._answers: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])  # max_tokens: [count, tokens]

    def learn(self, answered: Iterable[tuple[Prompt, Completion]]) -> None:
        """Take answered prompts into account; those whose server reported no usage say nothing."""
        for prompt, completion in answered:
            if completion.prompt_tokens > 0:
                size = prompt.size
                self._count += 1
                self._x += size
                self._y += completion.prompt_tokens
                self._xx += size * size
                self._xy += size * completion.prompt_tokens
            if completion.completion_tokens > 0:
                seen = self._answers[prompt.max_tokens]
                seen[0] += 1
                seen[1] += completion.completion_tokens

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Expected tokens of a prompt, at least 1."""
        constant, slope = self._line()
        return max(1, math.ceil(constant + slope * prompt.size))

    def completion_tokens(self, prompt: Prompt) -> float:
        count, tokens = self._answers.get(prompt.max_tokens, (0, 0))
        return tokens / count if count else float(prompt.max_tokens)

    def _line(self) -> tuple[float, float]:
        if self._count == 0:
            return TEMPLATE_TOKENS, 1 / BYTES_PER_TOKEN
        mean_x, mean_y = self._x / self._count, self._y / self._count
        variance = self._xx / self._count - mean_x * mean_x
        slope = 1 / BYTES_PER_TOKEN
        if self._count >= _ENOUGH and variance > 1.0:
            slope = max(0.0, (self._xy / self._count - mean_x * mean_y) / variance)
        if slope * mean_x > mean_y:  # a negative constant would make short prompts free
            return 0.0, mean_y / mean_x
        return mean_y - slope * mean_x, slope


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The questions of a run before they are asked: ``to_ask`` of ``prompts`` are different and have no answer yet.

    Tokens, cost and seconds are estimates; ``seconds`` is None when no earlier run tells how fast the model answers.
    Estimates of different prompts add up.
    """

    prompts: int = 0
    cached: int = 0
    to_ask: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float | None = 0.0

    def __add__(self, other: "CostEstimate") -> "CostEstimate":
        return self._and(other, 1)

    def __sub__(self, other: "CostEstimate") -> "CostEstimate":
        return self._and(other, -1)

    def _and(self, other: "CostEstimate", sign: int) -> "CostEstimate":
        mine, others = asdict(self), asdict(other)
        sums: dict[str, Any]
        sums = {name: None if None in (mine[name], others[name]) else mine[name] + sign * others[name] for name in mine}
        return CostEstimate(**sums)

    def summary(self) -> str:
        """For people, without the time, which ``offline.jobs.rates`` tells of texts and prompts together."""
        if not self.to_ask:
            return f"no prompts to ask, {self.cached:,} from cache" if self.prompts else "no prompts to ask"
        cost = f", cost {self.cost:.4f}" if self.cost else ""
        return (
            f"{self.to_ask:,} of {self.prompts:,} prompts to ask in {self.calls:,} calls, {self.cached:,} from cache,"
            f" about {self.prompt_tokens:,} tokens to read and {self.completion_tokens:,} to write{cost}"
        )


class BudgetError(PermanentError):
    """A live call does not fit into what is left of the budget."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Per million tokens, in whatever currency the user has in mind."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one run: tokens (prompts and answers together) and cost; None is no bound.

    Raises ValueError for a negative bound.
    """

    max_tokens: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if (self.max_tokens or 0) < 0 or (self.max_cost or 0) < 0:
            raise ValueError(f"a budget cannot be negative: {self}")

    def check(self, prices: Prices) -> None:
        """Raises ValueError for a cost bound that could never be reached, because nothing has a price."""
        if self.max_cost is not None and not (prices.prompt or prices.completion):
            raise ValueError("a cost budget needs price_prompt_per_million or price_completion_per_million")


Reservation = tuple[tuple[int, int], ...]
"""Tokens reserved for the first prompts of a batch while they are asked: (prompt, completion) of each."""


class BudgetAccount:
    """Reserves the expected tokens of a batch before it is asked, and charges the real ones after.

    Expected are the estimated prompt tokens and the full ``max_tokens``, so a run exceeds its budget at most by what
    the estimate missed on the prompts in flight, provided that the server keeps to max_tokens. A server that reports
    no usage is charged what was reserved. A call that failed is charged nothing, because nobody says what it cost.
    """

    def __init__(self, budget: Budget, prices: Prices, estimate: TokenEstimate) -> None:
        budget.check(prices)
        self.tokens = 0
        self.cost = 0.0
        self._budget = budget
        self._prices = prices
        self._estimate = estimate
        self._reserved_tokens = 0
        self._reserved_cost = 0.0
        self._reservations = 0
        self._changed = asyncio.Event()

    @property
    def has_reservations(self) -> bool:
        """Whether something is in flight, so that waiting may free a part of the budget."""
        return self._reservations > 0

    async def wait(self) -> None:
        """Until a reservation ends."""
        await self._changed.wait()

    def reserve(self, prompts: Sequence[Prompt]) -> Reservation:
        """Reserve the tokens of as many of the leading prompts as fit; an empty reservation need not be settled."""
        expected: list[tuple[int, int]] = []
        for prompt in prompts:
            tokens = self._estimate.prompt_tokens(prompt), prompt.max_tokens
            if not self._fits(*tokens):
                break
            self._add(*tokens)
            expected.append(tokens)
        self._reservations += bool(expected)
        return tuple(expected)

    def settle(self, reservation: Reservation, completions: Sequence[Completion] | None) -> None:
        """Give a reservation back and charge what the answers took; None if there are none."""
        self._reservations -= bool(reservation)
        for at, (prompt_tokens, completion_tokens) in enumerate(reservation):
            self._add(-prompt_tokens, -completion_tokens)
            if completions is not None:
                answer = completions[at]
                used = answer.prompt_tokens, answer.completion_tokens
                charged = used if any(used) else (prompt_tokens, completion_tokens)
                self.tokens += sum(charged)
                self.cost += self._prices.of(*charged)
        if not self._reservations:
            self._reserved_tokens, self._reserved_cost = 0, 0.0  # sums of floats drift
        self._changed.set()
        self._changed = asyncio.Event()

    def _fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        tokens, cost = self._budget.max_tokens, self._budget.max_cost
        more = self._prices.of(prompt_tokens, completion_tokens)
        return (
            tokens is None or self.tokens + self._reserved_tokens + prompt_tokens + completion_tokens <= tokens
        ) and (cost is None or self.cost + self._reserved_cost + more <= cost)

    def _add(self, prompt_tokens: int, completion_tokens: int) -> None:
        self._reserved_tokens += prompt_tokens + completion_tokens
        self._reserved_cost += self._prices.of(prompt_tokens, completion_tokens)
