"""How a job opens the language model: settings and a folder in, a synchronous client out, closed in order."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from offline.engine.engines import Engine
from offline.llm.account import CACHE_FILE, Account, Speed, recorded
from offline.llm.arithmetic import Precision
from offline.llm.budget import Budget, CostEstimate
from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.config import LLMConfig, open_backend
from offline.llm.engine import backend_on
from offline.llm.protocol import Answers, Completion, Prompt

CHECKPOINTS = "checkpoints"


@dataclass(eq=False)
class LLMSession:
    """A client for code that is not asynchronous. One event loop serves all calls, so connections live on."""

    client: LLMClient
    cache: ResponseCache
    account: Account
    runner: asyncio.Runner

    def ask_all(self, prompts: Sequence[Prompt], progress_label: str) -> Answers:
        """See LLMClient.ask_all: what answers there are; absent prompts raise nothing and make the run partial."""
        return self.runner.run(self.client.ask_all(prompts, progress_label))

    def complete_live(self, prompt: Prompt) -> Completion:
        return self.runner.run(self.client.complete_live(prompt))

    @property
    def cost_estimate(self) -> CostEstimate:
        """In a dry run: what all calls so far would have asked, every prompt counted once.

        A prompt that quotes an answer which is still absent cannot be written yet; pass one of similar length for it.
        """
        return self.client.cost_estimate

    @property
    def absent(self) -> int:
        """How many different prompts of this run have no answer so far; `account.reason` is why."""
        return len(self.client.absent)


@contextmanager
def open_session(
    config: LLMConfig,
    folder: Path,
    *,
    use_cache: bool = True,
    budget: Budget | None = None,
    dry_run: bool = False,
    engine: Engine | None = None,
    precision: Precision = "auto",
    speed: Callable[[str], Speed] | None = None,
) -> Iterator[LLMSession]:
    """Open answers and back end under `folder`; the account of what is asked lies beside the answers until the end.

    `use_cache=False` regenerates everything live and renews the cache. A `dry_run` calls no back end and records no
    account; `speed` tells it how fast a model answers. Raises ValueError for a budget in
    money without prices, and UnusableBackendError for local weights that are not there, because without them the
    answers' cache keys are unknown.
    """
    with ResponseCache(folder / CACHE_FILE) as cache, asyncio.Runner() as runner:
        opening = partial(open_backend, config, (folder / CHECKPOINTS).absolute(), precision)
        backend, in_flight = backend_on(engine, opening, config.calls_in_flight)
        account = Account(backend.model_id, config.prices)
        client = LLMClient(
            backend,
            cache,
            account,
            in_flight,
            config.max_attempts,
            use_cache=use_cache,
            budget=budget or Budget(),
            dry_run=dry_run,
            speed=speed(backend.model_id) if speed else Speed(),
            outlet=config.outlet,
        )
        with nullcontext() if dry_run else recorded(cache, account):
            try:
                yield LLMSession(client, cache, account, runner)
            finally:
                runner.run(backend.close())
