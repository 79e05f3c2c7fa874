"""The forecast for more users, from what was measured on this data set. Every figure names what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from offline.data.log import InteractionLog
from offline.jobs.ledger import RunLedger
from offline.jobs.steps import Job
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.run import load_knowledge, producers_of
from offline.llm.account import CACHE_FILE, speed_of
from offline.llm.cache import ResponseCache
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.knowledge import record_key

_SAMPLE = 100
_BESIDE_VALUES = 128
"""Bytes of a record beside its values: one of MovieLens-100K's "item/text" takes 256, its 64 float16 values 128."""
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: ``at_first`` for a past as long as here, ``per_day`` from then on (None where that has no sense)."""

    name: str
    at_first: float | None
    per_day: float | None
    unit: str
    rests_on: str

    def line(self) -> str:
        parts = []
        if self.at_first is not None:
            parts.append(f"{_short(self.at_first)} {self.unit}{' at first' if self.per_day is not None else ''}")
        if self.per_day is not None:
            parts.append(f"{_short(self.per_day)} {self.unit} a day")
        return f"  {self.name:<9} {' and '.join(parts) or 'unknown'}: {self.rests_on}"


@dataclass(frozen=True, slots=True)
class Forecast:
    """For so many users, with as many items as here."""

    users: int
    figures: Sequence[Figure]

    def lines(self) -> Iterator[str]:
        yield f"forecast   {self.users:,} users, each as active as here, with as many items as here, would take"
        yield from (figure.line() for figure in self.figures)

    def document(self) -> dict[str, Any]:
        return {"users": self.users, "figures": [asdict(figure) for figure in self.figures]}


@dataclass(frozen=True, slots=True)
class Means:
    """Means of one log. ``items`` counts calls about items; ``partitions`` and ``shifts`` are per user so far."""

    users: int
    events: int
    days: float
    partitions: float
    events_per_partition: float
    shifts: float
    shift: bool
    items: int

    @property
    def daily_events(self) -> float:
        """Per user."""
        return self.events / self.users / self.days

    @property
    def daily_partitions(self) -> float:
        """Per user, once everybody has a first one."""
        return self.daily_events / self.events_per_partition if self.events_per_partition else 0.0


def forecast_of(
    job: Job, store: Store, users: int, rate: float | None = None, prompt_rate: float | None = None
) -> Forecast | None:
    """The forecast, with the tokens per second that one GPU answers (None: as measured here) and reads (None: for
    free). None before there are interactions."""
    log = InteractionLog.load(job.log) if InteractionLog.is_saved(job.log) else None
    if log is None or not len(log.observed):
        return None
    means = measured(job, log)
    # no matter of how many users there are: numbers are of items, a few dozen prompts of one token each, and there are
    # as many groups as the settings say
    asks = set(producers_of(job.config.feature_schema)) - {"text", "groups", "numbers"}
    calls = _calls(means, users, bool(asks), bool(asks & {"autograph", "marc"}))
    tokens, memory = _tokens(job, calls, rate, prompt_rate), _memory(job, store, log, users)
    return Forecast(users, [_events(means, users), calls, *tokens, memory])


def measured(job: Job, log: InteractionLog) -> Means:
    partitions = close_partitions(log, job.config.knowledge.liber.trigger)
    times, users, count = log.time_ms[log.observed], len(np.unique(log.user[log.observed])), len(partitions)
    shift = "liber" in producers_of(job.config.feature_schema) and job.config.knowledge.liber.shift
    return Means(
        users=users,
        events=len(times),
        days=max(1.0, float(times.max() - times.min()) / _DAY_MS),
        partitions=count / users,
        events_per_partition=len(partitions.rows) / count if count else 0.0,
        shifts=(count - int(partitions.first_of_user().sum())) / users if shift else 0.0,
        shift=shift,
        items=len(log.item_ids),
    )


def _events(means: Means, users: int) -> Figure:
    return Figure(
        "events",
        users * means.events / means.users,
        users * means.daily_events,
        "events",
        f"{means.events:,} of {means.users:,} users in {means.days:.0f} days here, "
        f"{means.daily_events:.3f} per user and day",
    )


def _calls(means: Means, users: int, asks: bool, of_items: bool) -> Figure:
    if not asks:
        return Figure("calls", 0, 0, "calls", "no producer asks a language model")
    items = means.items if of_items else 0
    per_partition = 2 if means.shift else 1
    return Figure(
        "calls",
        users * (means.partitions + means.shifts) + items,
        users * means.daily_partitions * per_partition,
        "calls",
        f"a partition closes every {means.events_per_partition:.1f} events, "
        f"{means.partitions:.2f} per user so far; {per_partition} prompts per partition"
        f"{', and one less for the first' if means.shift else ''}; {items:,} items once; no second tries",
    )


def _tokens(job: Job, calls: Figure, rate: float | None, prompt_rate: float | None) -> Iterator[Figure]:
    count, prompt, answer = 0, 0, 0
    if (job.llm / CACHE_FILE).is_file():
        with ResponseCache(job.llm / CACHE_FILE) as cache:
            count, prompt, answer = cache.totals()
    if not count:
        yield Figure("tokens", None, None, "tokens", "no answer is stored yet that would tell the means")
        return
    means = (
        f"{prompt / count:.1f} prompt and {answer / count:.1f} answer tokens per prompt, the mean of {count:,} stored"
    )
    at_first, per_day = calls.at_first or 0.0, calls.per_day or 0.0
    both = (prompt + answer) / count
    yield Figure("tokens", at_first * both, per_day * both, "tokens", means)
    origin = "as told"
    if rate is None:
        runs = RunLedger(job.config.workdir).accounts()
        model = runs[-1].model_id if runs else ""
        rate, origin = speed_of(runs, model).tokens, f"as measured here with {model}, on whatever it ran"
    if rate is None:
        yield Figure("time", None, None, "GPU-hours", "no run tells how fast the model answers; --tokens-per-second")
    else:
        seconds = answer / count / rate + (prompt / count / prompt_rate if prompt_rate else 0.0)
        reading = f"prompts at {prompt_rate:,.0f}" if prompt_rate else "reading prompts for free"
        hours = f"{rate:,.0f} answer tokens/s per GPU {origin}, {reading}"
        yield Figure("time", at_first * seconds / 3600, per_day * seconds / 3600, "GPU-hours", hours)
    prices = job.config.llm.prices
    each = prices.of(prompt / count, answer / count)
    origin = f"{prices.prompt:g} and {prices.completion:g} per million prompt and answer tokens, as configured"
    yield Figure("cost", at_first * each, per_day * each, "(your currency)", origin)


def _memory(job: Job, store: Store, log: InteractionLog, users: int) -> Figure:
    """Redis memory by MEMORY USAGE, keys and overhead included."""
    owners = {"user": log.user_ids, "item": log.item_ids}
    of_user = [mean_bytes(store, key, log.user_ids) for key in (store.keys.user_profile, store.keys.user_history)]
    per_owner = {"item": 0.0, "user": sum(of_user)}
    if not per_owner["user"]:
        return Figure("memory", None, None, "GB in Redis", "nothing is published yet that would tell the means")
    known = load_knowledge(job.knowledge, job.config.feature_schema, log)
    guessed = []
    for spec in job.config.feature_schema.knowledge:
        vectors = known.users.get(spec.name) if spec.side == "user" else known.items.get(spec.name)
        mean = 0.0
        if vectors is not None:
            key_of = partial(record_key, store, spec.side, space=vectors.space.fingerprint)
            mean = mean_bytes(store, key_of, owners[spec.side])
        if not mean:
            guessed.append(spec.key)
            is_half = getattr(job.config.knowledge, spec.name).dtype == "float16"
            mean = _BESIDE_VALUES + spec.rows * spec.dim * (2 if is_half else 1)
        per_owner[spec.side] += mean
    guesses = f"; {', '.join(guessed)}, not published yet, by the size of its values" if guessed else ""
    return Figure(
        "memory",
        (users * per_owner["user"] + len(log.item_ids) * per_owner["item"]) / 1e9,
        None,
        "GB in Redis",
        f"{per_owner['user']:,.0f} bytes per user (profile, history, knowledge) and {per_owner['item']:,.0f} per item "
        f"(knowledge): the mean MEMORY USAGE of up to {_SAMPLE} of each{guesses}; one release, one replica",
    )


def mean_bytes(store: Store, key_of: Callable[[str], str], owners: Sequence[str]) -> float:
    """Mean memory of the keys of up to 100 owners, evenly spread; an absent key takes none."""
    chosen = owners[:: max(1, -(-len(owners) // _SAMPLE))]
    if not chosen:
        return 0.0
    with Bulk(store.redis) as bulk:
        sizes = bulk.ask([("MEMORY USAGE", key_of(owner)) for owner in chosen])
    return float(np.mean([size or 0 for size in sizes]))


def _short(number: float) -> str:
    for bound, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(number) >= bound:
            return f"{number / (bound if bound != 1e4 else 1e3):,.1f}{unit}"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:,.3g}"
