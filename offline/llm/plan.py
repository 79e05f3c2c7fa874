"""What a run would ask and what that would cost, without asking."""

from collections.abc import Mapping
from dataclasses import dataclass

from offline.llm.batches import make_batches
from offline.llm.budget import Prices
from offline.llm.estimate import TokenEstimate
from offline.llm.protocol import Prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """``to_ask`` of ``prompts`` are different and have no answer yet. Tokens, cost and seconds are estimates.

    ``seconds`` is None when no earlier run tells how fast the model answers. Plans of different prompts add up.
    """

    prompts: int = 0
    cached: int = 0
    to_ask: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float | None = 0.0

    def __add__(self, other: "Plan") -> "Plan":
        seconds = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        return Plan(
            self.prompts + other.prompts,
            self.cached + other.cached,
            self.to_ask + other.to_ask,
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            seconds,
        )

    def summary(self) -> str:
        """Return one readable line."""
        seconds = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        return (
            f"{self.to_ask} of {self.prompts} prompts to ask in {self.calls} calls, {self.cached} from cache, about"
            f" {self.prompt_tokens} + {self.completion_tokens} tokens, cost {self.cost:.4f}{seconds}"
        )


def plan_of(
    prompts: int,
    cached: int,
    missing: Mapping[str, Prompt],
    batch_size: int,
    estimate: TokenEstimate,
    prices: Prices,
    tokens_per_second: float | None,
) -> Plan:
    """Plan for the ``missing`` ones (by cache key) of ``prompts``; ``tokens_per_second`` counts answers only."""
    prompt_tokens = sum(estimate.prompt_tokens(prompt) for prompt in missing.values())
    completion_tokens = round(sum(estimate.completion_tokens(prompt) for prompt in missing.values()))
    seconds = 0.0 if not missing else completion_tokens / tokens_per_second if tokens_per_second else None
    return Plan(
        prompts,
        cached,
        len(missing),
        len(make_batches(missing, batch_size)),
        prompt_tokens,
        completion_tokens,
        prices.of(prompt_tokens, completion_tokens),
        seconds,
    )
