"""Working off the missing prompts of one run: batches, workers, waits, storing, failures, and prompts that are refused.

A prompt that a back end refuses for good, by a filter or for its length, would make every run partial if it were asked
for ever. A refusal counts only while the back end answers others, and decides only in a second run: what refuses
everything (a parameter that the server does not know, a credit that is used up) is no prompt's fault.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

from offline.data.catalogue import joined, line_of
from offline.llm.budget import BudgetAccount, Reservation
from offline.llm.cache import ResponseCache
from offline.llm.protocol import Completion, Parameters, PermanentError, Prompt, TransientError, UnusableBackendError
from offline.progress import Progress

Batch = list[tuple[str, Prompt]]  # (cache key, prompt)
Ask = Callable[[Sequence[Prompt]], Awaitable[list[Completion]]]

_TICK_SECONDS = 1.0
"""Between two looks at whether progress is to be shown."""
REFUSED_RUNS = 2
"""A prompt that was to blame in so many runs is asked no more."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting times, in seconds, between the attempts of one call: exponential, with jitter, bounded, and polite to a
    server that names a time."""

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
        # half of the time is fixed, half random: callers that failed together come back one by one
        jittered = grown * (0.5 + 0.5 * self.source.random())
        return max(jittered, min(retry_after or 0.0, self.longest_retry_after))


def make_batches(missing: Mapping[str, Prompt], batch_size: int) -> deque[Batch]:
    """Group prompts with equal parameters and similar length, so that a batch has little padding.

    Longest first: what does not fit into memory shows at once, and the last batches are the short ones. Prompts with
    choices go by their words instead: those that begin alike are neighbours, and a back end that keeps what it computed
    of the former prompt computes their common beginning once. The order depends only on the prompts.
    """
    ordered = sorted(missing.items(), key=_place, reverse=True)
    batches: deque[Batch] = deque()
    for _, group in groupby(ordered, key=lambda entry: entry[1].parameters):
        members = list(group)
        batches.extend(members[start : start + batch_size] for start in range(0, len(members), batch_size))
    return batches


def _place(entry: tuple[str, Prompt]) -> tuple[Parameters, int, tuple[tuple[str, str], ...], str]:
    key, prompt = entry
    alike = prompt.messages if prompt.choices else ()
    return prompt.parameters, 0 if prompt.choices else prompt.characters, alike, key


async def _ticking(progress: Progress) -> None:
    """Show progress until cancelled: a batch of a model in this process may take minutes."""
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        progress.tick()


@dataclass(eq=False)
class BatchRun:
    """Answers batches with a bounded number of workers; all results are keyed by cache key.

    `failures` were asked in vain, `too_dear` were never asked because they do not fit into what `budget` has left, and
    `stopped` says why the others without an answer were not asked either. Of the failures, `refused` failed alone and
    for good, and `to_blame` are those of them after which others of the same parameters were asked and answered.
    `account` gives the run's id and its account so far, which are stored together with the answers. A server that asks
    to wait for more than `patience` seconds stops the run at once, as do `give_up_after` calls in a row that failed
    with a TransientError.
    """

    ask: Ask
    cache: ResponseCache
    budget: BudgetAccount
    account: Callable[[], tuple[str, str] | None]
    give_up_after: int
    patience: float

    def __post_init__(self) -> None:
        self.answers: dict[str, Completion] = {}
        self.failures: dict[str, str] = {}
        self.refused: dict[str, Prompt] = {}
        self.to_blame: set[str] = set()
        self.too_dear: set[str] = set()
        self.stopped: str | None = None
        self._failed_in_a_row = 0
        self._defect: Exception | None = None
        self._unstored: dict[str, Completion] = {}
        self._writing = asyncio.Lock()

    async def answer(self, batches: deque[Batch], concurrency: int, label: str, hits: int) -> None:
        """Answer and store all batches, unless the run stops early; raises only what is nobody's bad input."""
        total = hits + sum(len(batch) for batch in batches)
        with Progress(label, total, "prompts", done=hits) as progress:
            ticking = asyncio.create_task(_ticking(progress))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(concurrency, len(batches))):
                        group.create_task(self._work(batches, progress, hits))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                ticking.cancel()
                # cancelled (Ctrl-C) between an answer and its commit: these were paid too
                if self._unstored:
                    self.cache.put_many(self._unstored, self.account())
        if self._defect is not None:
            raise self._defect

    async def _work(self, batches: deque[Batch], progress: Progress, hits: int) -> None:
        while (affordable := await self._next(batches)) is not None:
            batch, reservation = affordable
            completions: list[Completion] | None = None
            refused_before = len(self.refused)
            try:
                completions = await self.ask([prompt for _, prompt in batch])
            except Exception as error:  # noqa: BLE001 - a defect is raised by answer() once the others have stored theirs
                self._failed(batches, batch, error)
            finally:
                self.budget.settle(reservation, completions)
            if completions is not None:
                self._failed_in_a_row = 0
                asked = batch[0][1].parameters
                # those that were refused before this call began: a call in flight may be older than a spent credit
                earlier = islice(self.refused.items(), refused_before)
                self.to_blame |= {key for key, prompt in earlier if prompt.parameters == asked}
                answers = {key: completion for (key, _), completion in zip(batch, completions, strict=True)}
                await self._store(answers)
                self.answers |= answers
                progress.advance(len(batch), f"{hits} from cache, {len(self.answers)} paid")

    async def _next(self, batches: deque[Batch]) -> tuple[Batch, Reservation] | None:
        """Take the next batch, or as much of it as the budget has left, and set its tokens aside; None at the end.

        Batches in flight were set aside in full, so the budget may have more when they are answered: wait for them.
        With nothing in flight, a prompt that does not fit never will; the shorter ones behind it may.
        """
        while batches and self.stopped is None:
            batch = batches.popleft()
            reservation = self.budget.reserve([prompt for _, prompt in batch])
            rest = batch[len(reservation) :]
            if not reservation and not self.budget.has_reservations:
                self.too_dear.add(rest.pop(0)[0])
            if rest:
                batches.appendleft(rest)
            if reservation:
                return batch[: len(reservation)], reservation
            if self.budget.has_reservations:
                await self.budget.wait()
        return None

    def _failed(self, batches: deque[Batch], batch: Batch, error: Exception) -> None:
        """Record what a call's failure means for its batch and for the run."""
        if isinstance(error, PermanentError) and not isinstance(error, UnusableBackendError) and len(batch) > 1:
            # one bad prompt must not take its neighbours with it: halve until it stands alone
            half = len(batch) // 2
            batches.extendleft((batch[half:], batch[:half]))
            return
        if not isinstance(error, PermanentError | TransientError):
            self._defect = self._defect or error
            self.stopped = str(error)
            return
        self.failures |= {key: joined([line_of(error)], f"{type(error).__name__}: ") for key, _ in batch}
        if isinstance(error, UnusableBackendError):
            self.stopped = line_of(error)
        elif isinstance(error, PermanentError):
            self.refused |= dict(batch)
        else:
            self._failed_in_a_row += 1
            if error.retry_after is not None and error.retry_after > self.patience:
                self.stopped = joined([line_of(error)], f"the server asks to wait for {error.retry_after:.0f} s: ")
            elif self._failed_in_a_row >= self.give_up_after:
                self.stopped = joined(
                    [line_of(error)], f"{self._failed_in_a_row} calls in a row failed, the last with: "
                )

    async def remember_refusals(
        self, run_id: str, answered_any: bool, still_answers: Callable[[Prompt], Awaitable[bool]]
    ) -> set[str]:
        """Remember which prompts are to blame for their failures; the keys of those that now are in REFUSED_RUNS runs.

        To be noted, it takes any answer in the same run (``answered_any``); to be decided, one that came after the
        refusal, to a prompt of the same parameters. ``still_answers`` is asked where there is none.
        """
        noted = await asyncio.to_thread(self.cache.refused, list(self.refused), REFUSED_RUNS - 1)
        answers: dict[Parameters, bool] = {}
        for key, prompt in self.refused.items():
            if key in self.to_blame or (key not in noted and answered_any):
                self.to_blame.add(key)
            elif self.stopped is None:
                if prompt.parameters not in answers:
                    answers[prompt.parameters] = await still_answers(prompt)
                self.to_blame |= {key} if answers[prompt.parameters] else set()
        if self.to_blame:
            await asyncio.to_thread(self.cache.put_refusals, self.to_blame, run_id)
        return await asyncio.to_thread(self.cache.refused, list(self.refused), REFUSED_RUNS)

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
                await asyncio.to_thread(self.cache.put_many, taken, self.account())
            except BaseException:
                self._unstored = taken | self._unstored
                raise
