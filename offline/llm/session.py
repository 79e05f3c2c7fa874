"""How a job opens the language model: settings and a folder in, a synchronous client out, closed in order."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from offline.llm.cache import ResponseCache
from offline.llm.client import LLMClient
from offline.llm.config import LLMConfig, open_backend
from offline.llm.ledger import Ledger
from offline.llm.protocol import Completion, Prompt

CACHE_FILE = "answers.sqlite3"
LEDGER_FILE = "ledger.jsonl"
CHECKPOINTS = "checkpoints"


class LLMSession:
    """A client for code that is not asynchronous. One event loop serves all calls, so connections live on."""

    def __init__(self, client: LLMClient, cache: ResponseCache, ledger: Ledger, runner: asyncio.Runner) -> None:
        self.client = client
        self.cache = cache
        self.ledger = ledger
        self._runner = runner

    def complete_all(self, prompts: Sequence[Prompt], progress_label: str) -> list[str]:
        """See LLMClient.complete_all."""
        return self._runner.run(self.client.complete_all(prompts, progress_label))

    def complete_live(self, prompt: Prompt) -> Completion:
        """See LLMClient.complete_live."""
        return self._runner.run(self.client.complete_live(prompt))


@contextmanager
def open_session(config: LLMConfig, workdir: Path, run: str, *, use_cache: bool = True) -> Iterator[LLMSession]:
    """Open cache, ledger and back end under `workdir`; at the end, also after an error, the run's ledger is written.

    `run` names the job in the ledger. `use_cache=False` regenerates everything live and renews the cache.
    """
    with ResponseCache(workdir / CACHE_FILE) as cache, asyncio.Runner() as runner:
        backend = open_backend(config, workdir / CHECKPOINTS)
        ledger = Ledger(run, backend.model_id, config.price_prompt_per_million, config.price_completion_per_million)
        client = LLMClient(backend, cache, ledger, config.calls_in_flight, config.max_attempts, use_cache=use_cache)
        try:
            yield LLMSession(client, cache, ledger, runner)
        finally:
            try:
                runner.run(backend.close())
            finally:
                ledger.append_to(workdir / LEDGER_FILE)
