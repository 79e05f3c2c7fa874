"""What one run may spend, and the account against which every batch is checked before it is asked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from offline.llm.estimate import TokenEstimate
from offline.llm.protocol import Completion, PermanentError, Prompt


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
                self._charge(*(used if any(used) else (prompt_tokens, completion_tokens)))
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

    def _charge(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.tokens += prompt_tokens + completion_tokens
        self.cost += self._prices.of(prompt_tokens, completion_tokens)
