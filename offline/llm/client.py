"""The one way a job asks a language model: cache first, then batches, retries, and every answer stored at once.

What a kill costs: a worker stores its answers before it takes the next batch, so kill -9 loses at most what was in
flight, `concurrency` x `backend.batch_size` prompts. Whatever was stored is never paid again. More cannot be had from
this side: a server that worked on a prompt when its client died has been paid, and without a way to ask for that
answer later (idempotent requests), nobody but the server has it. An answer that arrived is exposed until its commit is
written, which may have to wait for the commit before it. Measured with kills at random moments and calls of 0.5 s: of
1,270 answers that arrived in 40 runs with 16 calls in flight, 3 were lost; of 73 in 40 runs with one call, none.
"""

import asyncio
import itertools
import json
import math
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

from models.contract.leaving import Outlet, in_words
from offline.llm.account import Account, Speed
from offline.llm.batches import REFUSED_RUNS, Backoff, BatchRun, make_batches
from offline.llm.budget import Budget, BudgetAccount, BudgetError, CostEstimate, TokenEstimate
from offline.llm.cache import ResponseCache, cache_key, stored_answers
from offline.llm.protocol import (
    BUDGET,
    DRY_RUN,
    UNTRIED,
    Answers,
    Backend,
    Completion,
    MayNotLeaveError,
    PermanentError,
    Prompt,
    TransientError,
)

SETTING = "llm.may_leave"
REMEDY = "write may_leave = {list} in [llm] to let them (docs/security.md), or use a server on this machine"
"""Of prompts that may not leave: the setting, and what to do."""


@dataclass(eq=False)
class LLMClient:
    """Answers prompts through one back end, one cache and one account, for one run of a job.

    `concurrency` bounds the calls in flight, `max_attempts` the tries of one call. `use_cache=False` asks everything
    anew and still stores the answers. `give_up_after` calls in a row that failed for good with a TransientError (a
    server that is down, not one that stumbles) stop the run. What stops the run stops it for good: later calls return
    what is cached, at once. `budget` bounds what the run may spend; with `dry_run` the back end is never called, and
    what would be asked adds up in `cost_estimate`. `outlet` is the way to the server, None for a model in this process:
    prompts whose fields it does not let out are not sent, and lists that are sent are announced. `absent` remembers
    over all calls what has no answer, and why.
    """

    backend: Backend
    cache: ResponseCache
    account: Account
    concurrency: int = 16
    max_attempts: int = 6
    _: KW_ONLY
    use_cache: bool = True
    backoff: Backoff = field(default_factory=Backoff)
    give_up_after: int = 20
    budget: Budget = field(default_factory=Budget)
    dry_run: bool = False
    speed: Speed = field(default_factory=Speed)
    outlet: Outlet | None = None

    def __post_init__(self) -> None:
        if min(self.concurrency, self.max_attempts, self.give_up_after) < 1:
            raise ValueError("concurrency, max_attempts and give_up_after must be at least 1")
        self.cost_estimate = CostEstimate()
        self.absent: dict[str, str] = {}
        self._estimate = TokenEstimate()
        self._budget = BudgetAccount(self.budget, self.account.prices, self._estimate)
        self._clock = 0.0  # when the account's seconds were last added up
        self._weighing = False  # whether all that is asked now has choices
        self._stopped: str | None = None
        self._id = secrets.token_hex(8)  # for an account without an id
        self._shortest: Prompt | None = None  # of those that have an answer

    async def ask_all(self, prompts: Sequence[Prompt], progress_label: str) -> Answers:
        """Return what answers there are, in the order of `prompts`; equal prompts are asked once and share theirs.

        Prompts that failed, were not tried or did not fit into the budget are absent, whatever the reason: a run
        always gets the answers that are stored. Prompts that are to blame for a permanent error, in this run or before,
        in REFUSED_RUNS runs together, are refused instead of absent. Only an error that is neither transient nor
        permanent (a defect, a full disk) is raised, as it is, after the calls in flight were stored; and
        MayNotLeaveError, before the first call.
        """
        self._clock = time.perf_counter()
        self._weighing = bool(prompts) and all(prompt.choices for prompt in prompts)
        keys, by_key, known, refused = await self._look_up(prompts)
        missing = {key: prompt for key, prompt in by_key.items() if key not in known and key not in refused}
        self.account.prompts += len(prompts)
        self.account.duplicates += len(prompts) - len(by_key)
        self.account.cache_hits += len(known)
        self.account.refused += len(refused)
        try:
            if self.dry_run:
                # counted once, although the next list may ask for it again
                new = {key: prompt for key, prompt in missing.items() if key not in self.absent}
                self.cost_estimate += self._estimated(len(prompts), len(known) + len(refused), new)
                reasons, stopped = dict.fromkeys(missing, DRY_RUN), None
            else:
                reasons, stopped = await self._ask_missing(missing, known, refused, progress_label)
        finally:
            self._tick()
        self._remember(by_key, reasons, stopped)
        completions = tuple(known.get(key) for key in keys)
        absent = {at: reasons[key] for at, key in enumerate(keys) if key in reasons}
        return Answers(completions, absent, stopped, frozenset(at for at, key in enumerate(keys) if key in refused))

    async def complete_live(self, prompt: Prompt) -> Completion:
        """Ask the model now, with retries, whatever the cache holds, and leave the cache as it is (spot checks).

        Raises BudgetError when the call does not fit into the budget, PermanentError in a dry run.
        """
        if self.dry_run:
            raise PermanentError("a dry run asks nothing")
        self._clock = time.perf_counter()
        self._weighing = bool(prompt.choices)
        try:
            return await self._live(prompt)
        finally:
            await asyncio.to_thread(self.cache.put_many, {}, self._account_line())

    async def _live(self, prompt: Prompt) -> Completion:
        reservation = self._budget.reserve([prompt])
        if not reservation:
            raise BudgetError("the call does not fit into what is left of the budget")
        self.account.prompts += 1
        completions: list[Completion] | None = None
        try:
            completions = await self._ask([prompt])
            return completions[0]
        except Exception:
            self.account.failures += 1
            raise
        finally:
            self._budget.settle(reservation, completions)

    def _estimated(self, prompts: int, cached: int, missing: Mapping[str, Prompt]) -> CostEstimate:
        """The cost of asking the ``missing`` ones (by cache key) of ``prompts``."""
        prompt_tokens = sum(self._estimate.prompt_tokens(prompt) for prompt in missing.values())
        answers = round(sum(self._estimate.completion_tokens(prompt) for prompt in missing.values()))
        written = sum(self._estimate.completion_tokens(prompt) for prompt in missing.values() if not prompt.choices)
        weighed = sum(1 for prompt in missing.values() if prompt.choices)
        seconds = [_seconds(written, self.speed.tokens), _seconds(weighed, self.speed.choices)]
        return CostEstimate(
            prompts,
            cached,
            len(missing),
            len(make_batches(missing, self.backend.batch_size)),
            prompt_tokens,
            answers,
            self.account.prices.of(prompt_tokens, answers),
            None if None in seconds else math.fsum(part or 0.0 for part in seconds),
        )

    async def _look_up(
        self, prompts: Sequence[Prompt]
    ) -> tuple[list[str], dict[str, Prompt], dict[str, Completion], set[str]]:
        """Cache keys in order, the different prompts by key, the stored answers that may be used, and the keys of
        those without one that are refused."""
        keys = [cache_key(self.backend.model_id, prompt) for prompt in prompts]
        by_key = dict(zip(keys, prompts, strict=True))
        if not self.dry_run:  # before anything is stored: an answer whose owner nobody noted could not be removed
            owners = {(key, prompt.owner) for key, prompt in zip(keys, prompts, strict=True) if prompt.owner}
            await asyncio.to_thread(self.cache.note_owners, sorted(owners))
        stored = await asyncio.to_thread(stored_answers, self.cache, self.backend.model_id, by_key)
        self._estimate.learn((by_key[key], completion) for key, completion in stored.items())
        self._answerable(by_key[key] for key in stored)
        if not self.use_cache:
            return keys, by_key, {}, set()
        others = [key for key in by_key if key not in stored]
        return keys, by_key, stored, await asyncio.to_thread(self.cache.refused, others, REFUSED_RUNS)

    async def _ask_missing(
        self, missing: Mapping[str, Prompt], known: dict[str, Completion], refused: set[str], label: str
    ) -> tuple[dict[str, str], str | None]:
        """Ask, add the answers to `known` and what is refused for good to `refused`, and return why the others are
        absent and what stopped the run."""
        if self._stopped is not None:
            return dict.fromkeys(missing, UNTRIED), self._stopped
        if missing:
            self._announce(missing.values(), label)
        patience = self.backoff.longest_retry_after
        run = BatchRun(self._ask, self.cache, self._budget, self._account_line, self.give_up_after, patience)
        try:
            await run.answer(make_batches(missing, self.backend.batch_size), self.concurrency, label, len(known))
        finally:
            self.account.failures += len(run.failures)
        self._stopped = run.stopped
        known |= run.answers
        self._answerable(missing[key] for key in run.answers)
        run_id, answered_any = self.account.run_id or self._id, self.account.paid > 0
        refused |= await run.remember_refusals(run_id, answered_any, self._still_answers)
        reasons = {
            key: run.failures.get(key) or (BUDGET if key in run.too_dear else UNTRIED)
            for key in missing
            if key not in run.answers and key not in refused
        }
        return reasons, run.stopped or (BUDGET if run.too_dear else None)

    async def _still_answers(self, refused: Prompt) -> bool:
        """Whether the shortest prompt that has an answer gets one with the parameters of a refused one. It is paid."""
        if self._shortest is None:
            return False
        try:
            await self._live(replace(refused, messages=self._shortest.messages, carries=self._shortest.carries))
        except (PermanentError, TransientError):
            return False
        finally:
            await asyncio.to_thread(self.cache.put_many, {}, self._account_line())
        return True

    def _answerable(self, prompts: Iterable[Prompt]) -> None:
        self._shortest = min(
            (*prompts, *([self._shortest] if self._shortest else [])),
            key=lambda prompt: (prompt.characters, prompt.messages),
            default=None,
        )

    def _remember(self, by_key: Mapping[str, Prompt], reasons: Mapping[str, str], stopped: str | None) -> None:
        for key in by_key:
            if key in reasons:
                self.absent.setdefault(key, reasons[key])
            else:
                self.absent.pop(key, None)
        self.account.absent = len(self.absent)
        if not self.absent:
            self.account.reason = ""
        elif reasons and not self.account.reason:
            self.account.reason = stopped or next(iter(reasons.values()))

    def _tick(self) -> None:
        """Add the seconds since the last tick to the account."""
        before, self._clock = self._clock, time.perf_counter()
        self.account.seconds += self._clock - before
        if self._weighing:
            self.account.choice_seconds += self._clock - before

    def _account_line(self) -> tuple[str, str] | None:
        """The run's id and its account so far, as text; None for an account without an id: nobody records it
        (account.py), and nobody would end it."""
        self._tick()
        return (self.account.run_id, json.dumps(self.account.document())) if self.account.run_id else None

    def _announce(self, prompts: Collection[Prompt], label: str) -> None:
        """Say where prompts go and what they carry, before the first is sent. MayNotLeaveError if any may not."""
        self._check(prompts)
        if self.outlet is not None and self.budget.max_tokens != 0:
            to, most = f"{self.outlet.address} ({self.outlet.place})", "at most " if self.budget != Budget() else ""
            fields = in_words(_carried(prompts))
            print(f"{label}: {most}{len(prompts):,} prompts go to {to} and carry {fields}", flush=True)

    def _check(self, prompts: Iterable[Prompt]) -> None:
        """MayNotLeaveError if one of the prompts carries what may not leave."""
        if self.outlet is not None and (refusal := self.outlet.refusal(_carried(prompts), SETTING, REMEDY)):
            raise MayNotLeaveError(refusal)

    async def _ask(self, batch: Sequence[Prompt]) -> list[Completion]:
        """Make one call with retries and account for it. MayNotLeaveError as ``_check``."""
        self._check(batch)
        for attempt in itertools.count(1):
            self.account.calls += 1
            try:
                completions = await self.backend.complete(batch)
            except TransientError as error:
                # trying again earlier than the server asks to would only be refused
                impatient = (error.retry_after or 0.0) > self.backoff.longest_retry_after
                if attempt == self.max_attempts or impatient:
                    raise
                self.account.retries += 1
                delay = self.backoff.delay(attempt, error.retry_after)
            else:
                break
            await self.backoff.sleep(delay)
        if len(completions) != len(batch):
            raise RuntimeError(f"{self.backend.model_id} answered {len(completions)} of {len(batch)} prompts")
        self._estimate.learn(zip(batch, completions, strict=True))
        self.account.charge(completions, choices=bool(batch[0].choices))
        return completions


def _seconds(count: float, rate: float | None) -> float | None:
    return 0.0 if not count else count / rate if rate else None


def _carried(prompts: Iterable[Prompt]) -> frozenset[str] | None:
    """All fields that prompts carry; None if one of them does not say."""
    carried = {prompt.carries for prompt in prompts}
    known = [fields for fields in carried if fields is not None]
    return None if len(known) < len(carried) else frozenset[str]().union(*known)
