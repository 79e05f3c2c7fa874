"""What one run of a job asked of a language model and what that cost."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(slots=True)
class Ledger:
    """Counters of one run. `prompts` = `duplicates` + `cache_hits` + `paid` + `failures` + what a stop left untried.

    Tokens and cost cover paid answers only; prices are per million tokens, in whatever currency the user has in mind.
    A run that is killed writes no line: `ResponseCache.totals` is the account that survives.
    """

    run: str
    model_id: str
    price_prompt_per_million: float = 0.0
    price_completion_per_million: float = 0.0
    prompts: int = 0
    duplicates: int = 0
    cache_hits: int = 0
    paid: int = 0
    calls: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def cost(self) -> float:
        """Price of the paid tokens."""
        return (
            self.prompt_tokens * self.price_prompt_per_million
            + self.completion_tokens * self.price_completion_per_million
        ) / 1e6

    def summary(self) -> str:
        """Return one readable line."""
        line = (
            f"{self.run} [{self.model_id}]: {self.prompts} prompts, {self.cache_hits} from cache, {self.paid} paid"
            f" ({self.prompt_tokens} + {self.completion_tokens} tokens, cost {self.cost:.4f})"
            f" in {self.calls} calls, {self.seconds:.1f} s"
        )
        if self.retries or self.failures:
            line += f"; {self.retries} retries, {self.failures} failures"
        return line

    def append_to(self, path: Path) -> None:
        """Add this run as one JSON line to `path`; one write, so that lines of parallel runs do not mix."""
        record = asdict(self) | {"cost": self.cost, "finished_at": datetime.now(UTC).isoformat(timespec="seconds")}
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, json.dumps(record).encode() + b"\n")
        finally:
            os.close(descriptor)
