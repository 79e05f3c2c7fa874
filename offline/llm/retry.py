"""When to try again: exponential backoff with jitter, bounded, and polite to a server that names a time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting times, in seconds, between the attempts of one call."""

    first: float = 0.5
    longest: float = 30.0
    # a server may ask for an hour; waiting that long inside a job hides the problem, so the wish is bounded too
    longest_retry_after: float = 300.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    source: random.Random = field(default_factory=random.Random)

    def delay(self, failed_attempts: int, retry_after: float | None) -> float:
        """Return how long to wait after `failed_attempts` attempts; never less than a (bounded) `retry_after`."""
        # the exponent is bounded because 2.0**1100 overflows, long after `longest` was reached
        grown = min(self.longest, self.first * 2.0 ** min(failed_attempts - 1, 60))
        # half of the time is fixed, half random: callers that failed together come back apart
        jittered = grown * (0.5 + 0.5 * self.source.random())
        return max(jittered, min(retry_after or 0.0, self.longest_retry_after))
