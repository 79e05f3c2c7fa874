"""Working off the missing prompts of one run: batches, workers, storing, and what to do when a batch fails."""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby

from tqdm import tqdm

from offline.llm.cache import ResponseCache
from offline.llm.protocol import Completion, PermanentError, Prompt, TransientError, UnusableBackendError

Batch = list[tuple[str, Prompt]]  # (cache key, prompt)
Ask = Callable[[Sequence[Prompt]], Awaitable[list[Completion]]]

_REFRESH_TERMINAL_SECONDS = 0.5
_REFRESH_LOG_SECONDS = 30.0  # in a cron log every refresh is a line


def make_batches(missing: Mapping[str, Prompt], batch_size: int) -> deque[Batch]:
    """Group prompts with equal parameters and similar length, so that a batch has little padding.

    Longest first: what does not fit into memory shows at once, and the last batches are the short ones. The order
    depends only on the prompts.
    """

    def parameters(entry: tuple[str, Prompt]) -> tuple[int, float, float]:
        return entry[1].max_tokens, entry[1].temperature, entry[1].repetition_penalty

    ordered = sorted(
        missing.items(), key=lambda entry: (parameters(entry), entry[1].characters, entry[0]), reverse=True
    )
    batches: deque[Batch] = deque()
    for _, group in groupby(ordered, key=parameters):
        members = list(group)
        batches.extend(members[start : start + batch_size] for start in range(0, len(members), batch_size))
    return batches


class BatchRun:
    """Answers batches with a bounded number of workers; `answers` and `failures` are keyed by cache key."""

    def __init__(self, ask: Ask, cache: ResponseCache, give_up_after: int) -> None:
        self.answers: dict[str, Completion] = {}
        self.failures: dict[str, str] = {}
        self.stopped: str | None = None
        self._ask = ask
        self._cache = cache
        self._give_up_after = give_up_after
        self._failed_in_a_row = 0
        self._defect: Exception | None = None
        self._unstored: dict[str, Completion] = {}
        self._writing = asyncio.Lock()

    async def answer(self, batches: deque[Batch], concurrency: int, label: str, hits: int) -> None:
        """Answer and store all batches, unless the run stops early; raises only what is nobody's bad input."""
        total = hits + sum(len(batch) for batch in batches)
        every = _REFRESH_TERMINAL_SECONDS if sys.stderr.isatty() else _REFRESH_LOG_SECONDS
        with tqdm(
            total=total, initial=hits, desc=label, unit="prompt", mininterval=every, maxinterval=every, file=sys.stderr
        ) as bar:
            bar.set_postfix(hits=hits, paid=0, refresh=False)
            workers = [self._work(batches, bar, hits) for _ in range(min(concurrency, len(batches)))]
            try:
                async with asyncio.TaskGroup() as group:
                    for worker in workers:
                        group.create_task(worker)
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                # cancelled (Ctrl-C) between an answer and its commit: these were paid too
                if self._unstored:
                    self._cache.put_many(self._unstored)
        if self._defect is not None:
            raise self._defect

    async def _work(self, batches: deque[Batch], bar: "tqdm[None]", hits: int) -> None:
        while batches and self.stopped is None:
            batch = batches.popleft()
            prompts = [prompt for _, prompt in batch]
            try:
                completions = await self._ask(prompts)
            except UnusableBackendError as error:
                self._fail(batch, error)
                self.stopped = str(error)
            except PermanentError as error:
                if len(batch) > 1:
                    # one bad prompt must not take its neighbours with it: halve until it stands alone
                    half = len(batch) // 2
                    batches.extendleft((batch[half:], batch[:half]))
                    continue
                self._fail(batch, error)
            except TransientError as error:
                self._fail(batch, error)
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= self._give_up_after:
                    self.stopped = f"{self._failed_in_a_row} calls in a row failed, the last with: {error}"
            except Exception as error:  # noqa: BLE001 - raised by answer() once the other workers have stored theirs
                self._defect = self._defect or error
                self.stopped = str(error)
            else:
                self._failed_in_a_row = 0
                answers = {key: completion for (key, _), completion in zip(batch, completions, strict=True)}
                await self._store(answers)
                self.answers |= answers
                bar.set_postfix(hits=hits, paid=len(self.answers), refresh=False)
                bar.update(len(batch))

    def _fail(self, batch: Batch, error: Exception) -> None:
        self.failures |= {key: f"{type(error).__name__}: {error}" for key, _ in batch}

    async def _store(self, answers: dict[str, Completion]) -> None:
        """Return once the answers are on the disk.

        Whoever gets the lock commits for all who wait: a commit costs an fsync, and with hundreds of short answers
        per second one fsync per answer would be the bottleneck.
        """
        self._unstored |= answers
        async with self._writing:
            taken, self._unstored = self._unstored, {}
            if not taken:
                return
            try:
                await asyncio.to_thread(self._cache.put_many, taken)
            except BaseException:
                self._unstored = taken | self._unstored
                raise
