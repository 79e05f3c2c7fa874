"""The account of one run: its questions to a language model, and their cost.

Every commit of answers also writes the run's account so far (cache.py), in the same transaction: after `kill -9` the
account tells of every committed answer, and what was in flight is in neither. A run that ends moves its account into
its line of the ledger (offline/jobs/ledger.py), which also takes over the accounts of runs that were killed.
"""

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from offline.llm.budget import Prices
from offline.llm.cache import ResponseCache
from offline.llm.protocol import Completion

CACHE_FILE = "answers.sqlite3"

_RECENT = 20  # runs from which the speed of a model is taken


@dataclass(slots=True)
class Account:
    """Counters of one run. `prompts` = `duplicates` + `cache_hits` + `refused` + `paid` + `failures` + what a stop left
    untried. `refused` were not asked, because earlier runs were refused for good; in those they are `failures`.

    Tokens and `cost` cover paid answers only, at `prices`. `choices` of the paid answers are to prompts with choices,
    and `choice_seconds` of the `seconds` went to those: they say nothing of how fast a model writes. `absent` prompts
    have no answer at the end of the run, `reason` is why the first of them has none. `run_id` is empty where nobody
    records the account.
    """

    model_id: str
    prices: Prices = field(default_factory=Prices)
    run_id: str = ""
    prompts: int = 0
    duplicates: int = 0
    cache_hits: int = 0
    paid: int = 0
    calls: int = 0
    retries: int = 0
    failures: int = 0
    refused: int = 0
    absent: int = 0
    reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    choices: int = 0
    choice_seconds: float = 0.0

    def charge(self, completions: Sequence[Completion], *, choices: bool = False) -> None:
        """Count paid answers; whether they are to prompts with ``choices``."""
        self.paid += len(completions)
        self.choices += len(completions) if choices else 0
        self.prompt_tokens += sum(completion.prompt_tokens for completion in completions)
        self.completion_tokens += sum(completion.completion_tokens for completion in completions)
        self.cost = self.prices.of(self.prompt_tokens, self.completion_tokens)

    def summary(self, title: str) -> str:
        line = (
            f"{title} [{self.model_id}]: {self.prompts} prompts, {self.cache_hits} from cache, {self.paid} paid"
            f" ({self.prompt_tokens} + {self.completion_tokens} tokens, cost {self.cost:.4f})"
            f" in {self.calls} calls, {self.seconds:.1f} s"
        )
        if self.retries or self.failures:
            line += f"; {self.retries} retries, {self.failures} failures"
        if self.refused:
            line += f"; {self.refused} refused in earlier runs"
        if self.absent:
            line += f"; {self.absent} absent ({self.reason})"
        return line

    def document(self) -> dict[str, Any]:
        """The account as JSON, without its prices."""
        counters = {name: value for name, value in asdict(self).items() if name not in ("prices", "reason")}
        rounded = {"seconds": round(self.seconds, 3), "choice_seconds": round(self.choice_seconds, 3)}
        return counters | rounded | {"cost": round(self.cost, 6)}

    @classmethod
    def parse(cls, document: Any) -> "Account":
        """Read an account of any version: what it lacks takes its default, what is unknown is left out.

        Raises ValueError for a document that is no account.
        """
        if not isinstance(document, dict) or "model_id" not in document:
            raise ValueError("not an account")
        names = {counter.name for counter in fields(cls)} - {"prices"}
        return cls(**{name: value for name, value in document.items() if name in names})


@contextmanager
def recorded(cache: ResponseCache, account: Account) -> Iterator[None]:
    """Give the account an id under which `cache` holds it until the block ends, however it ends, but for a kill."""
    account.run_id = new_run_id()
    cache.put_many({}, (account.run_id, json.dumps(account.document())))
    try:
        yield
    finally:
        cache.forget_run(account.run_id)


def new_run_id() -> str:
    """The time in UTC, to the second, with what tells two runs of one second apart."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def open_accounts(folder: Path) -> dict[str, Account]:
    """Accounts of the runs that have not ended, at work or killed, by id, oldest first. Changes nothing."""
    if not (folder / CACHE_FILE).is_file():
        return {}
    with ResponseCache(folder / CACHE_FILE) as cache:
        return {run_id: Account.parse(json.loads(text)) for run_id, text in cache.open_runs().items()}


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model answered: ``tokens`` that it wrote, and ``choices`` that it weighed, per second; None where no
    run tells."""

    tokens: float | None = None
    choices: float | None = None


def speed_of(accounts: Iterable[Account], model_id: str) -> Speed:
    """The speed of a model in the latest runs that asked it anything."""
    runs = [run for run in accounts if run.model_id == model_id and run.completion_tokens > 0 and run.seconds > 0]
    wrote = [(run.completion_tokens - run.choices, run.seconds - run.choice_seconds) for run in runs]
    return Speed(_rate(wrote), _rate([(run.choices, run.choice_seconds) for run in runs]))


def _rate(runs: Iterable[tuple[int, float]]) -> float | None:
    recent = [(count, seconds) for count, seconds in runs if count > 0 and seconds > 0][-_RECENT:]
    return sum(count for count, _ in recent) / sum(seconds for _, seconds in recent) if recent else None
