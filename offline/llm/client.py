"""The one way a job asks a language model: cache first, then batches, retries, and every answer stored at once.

What a kill costs: a worker stores its answers before it takes the next batch, so kill -9 loses at most what was in
flight, `concurrency` x `backend.batch_size` prompts. Whatever was stored is never paid again.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence

from offline.llm.batches import BatchRun, make_batches
from offline.llm.cache import ResponseCache, cache_key
from offline.llm.ledger import Ledger
from offline.llm.protocol import Backend, Completion, Prompt, TransientError
from offline.llm.retry import Backoff


class LLMRunError(Exception):
    """Some prompts have no answer. Every answer that did arrive is in the cache, so running again asks only the rest.

    `failed` holds the positions in the caller's list with the reason, `untried` the positions never asked because
    the run was stopped early.
    """

    def __init__(self, label: str, total: int, failed: dict[int, str], untried: list[int], stopped: str | None) -> None:
        first = next(iter(failed.items()), None)
        message = f"{label}: {len(failed)} of {total} prompts failed"
        if first is not None:
            message += f" (the first, at position {first[0]}: {first[1]})"
        if untried:
            message += f", {len(untried)} were not tried"
        if stopped:
            message += f"; stopped because {stopped}"
        super().__init__(f"{message}. Answers received so far are stored; run again to ask for the rest.")
        self.failed = failed
        self.untried = untried


class LLMClient:
    """Answers prompts through one back end, one cache and one ledger.

    `concurrency` bounds the calls in flight, `max_attempts` the tries of one call. `use_cache=False` asks everything
    anew and still stores the answers. `give_up_after` calls in a row that failed for good with a TransientError (a
    server that is down, not one that stumbles) stop the run.
    """

    def __init__(
        self,
        backend: Backend,
        cache: ResponseCache,
        ledger: Ledger,
        concurrency: int = 16,
        max_attempts: int = 6,
        *,
        use_cache: bool = True,
        backoff: Backoff | None = None,
        give_up_after: int = 20,
    ) -> None:
        if min(concurrency, max_attempts, give_up_after) < 1:
            raise ValueError("concurrency, max_attempts and give_up_after must be at least 1")
        self._backend = backend
        self._cache = cache
        self._ledger = ledger
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._use_cache = use_cache
        self._backoff = backoff or Backoff()
        self._give_up_after = give_up_after

    async def complete_all(self, prompts: Sequence[Prompt], progress_label: str) -> list[str]:
        """Return the answers in the order of `prompts`; equal prompts are asked once and share their answer.

        Raises LLMRunError after everything else was answered and stored. An error that is neither transient nor
        permanent (a defect, a full disk) is raised as it is, after the calls in flight were stored.
        """
        started = time.perf_counter()
        keys = [cache_key(self._backend.model_id, prompt) for prompt in prompts]
        wanted = dict(zip(keys, prompts, strict=True))
        known: dict[str, Completion] = {}
        if self._use_cache:
            known = await asyncio.to_thread(self._cache.get_many, list(wanted))
        missing = {key: prompt for key, prompt in wanted.items() if key not in known}
        self._ledger.prompts += len(prompts)
        self._ledger.duplicates += len(prompts) - len(wanted)
        self._ledger.cache_hits += len(known)

        run = BatchRun(self._ask, self._cache, self._give_up_after)
        try:
            await run.answer(
                make_batches(missing, self._backend.batch_size), self._concurrency, progress_label, len(known)
            )
        finally:
            self._ledger.failures += len(run.failures)
            self._ledger.seconds += time.perf_counter() - started

        answers = known | run.answers
        if len(answers) < len(wanted):
            failed = {at: run.failures[key] for at, key in enumerate(keys) if key in run.failures}
            untried = [at for at, key in enumerate(keys) if key not in answers and key not in run.failures]
            raise LLMRunError(progress_label, len(prompts), failed, untried, run.stopped)
        return [answers[key].text for key in keys]

    async def complete_live(self, prompt: Prompt) -> Completion:
        """Ask the model now, with retries, whatever the cache holds, and leave the cache as it is (spot checks)."""
        started = time.perf_counter()
        self._ledger.prompts += 1
        try:
            return (await self._ask([prompt]))[0]
        except Exception:
            self._ledger.failures += 1
            raise
        finally:
            self._ledger.seconds += time.perf_counter() - started

    async def _ask(self, batch: Sequence[Prompt]) -> list[Completion]:
        """Make one call with retries and account for it."""
        for attempt in itertools.count(1):
            self._ledger.calls += 1
            try:
                completions = await self._backend.complete(batch)
            except TransientError as error:
                if attempt == self._max_attempts:
                    raise
                self._ledger.retries += 1
                delay = self._backoff.delay(attempt, error.retry_after)
            else:
                break
            await self._backoff.sleep(delay)
        if len(completions) != len(batch):
            raise RuntimeError(f"{self._backend.model_id} answered {len(completions)} of {len(batch)} prompts")
        self._ledger.paid += len(completions)
        self._ledger.prompt_tokens += sum(completion.prompt_tokens for completion in completions)
        self._ledger.completion_tokens += sum(completion.completion_tokens for completion in completions)
        return completions
