"""The test period of the log, sent to a service that does not know it yet: real users, real items, real order.

Everything is published as it was when the test period began (histories, statistics, knowledge) under a key prefix of
its own. Then every interaction of the period becomes a request: the item that the user really took, among others that
the user never did. If it is among those shown, the interaction is fed back in answer to the request, otherwise by
itself; either way the user's next request knows it. CTR is then how often the list held what the user took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx2
import numpy as np
import polars as pl
from tqdm import tqdm

from models.contract.events import owner_tag
from offline.config import SamplesConfig
from offline.data.catalogue import DataError
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.calls import authorization, refusal
from offline.jobs.steps import Job
from offline.knowledge.run import load_knowledge
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
from offline.publish.archive import INTERACTIONS
from offline.publish.connection import Store, replay_prefix, store_at
from offline.publish.erasure import empty
from offline.publish.publish import publish
from offline.publish.staging import Contents
from offline.training.report import TrainingReport
from offline.training.samples import split_samples

LANES = 8
"""Requests in flight. A user is in one lane, so that no request overtakes feedback that it should know."""

_ATTEMPTS, _PAUSE_S = 100, 0.2


@dataclass(frozen=True, slots=True)
class Visit:
    """An interaction of the test period, and the candidates that were on offer."""

    request_id: str
    user: str
    item: str
    value: float
    candidates: tuple[str, ...]


@dataclass(slots=True)
class Replayed:
    """``requests`` that were answered, of which ``shown`` had the item in their list; ``repeated`` calls broke or were
    refused, and were sent again. ``dropped`` exposures never reached Redis."""

    requests: int = 0
    shown: int = 0
    feedback: int = 0
    dropped: int = 0
    repeated: int = 0
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        return asdict(self)


def replay_job(job: Job) -> Job:
    """The same job with a data folder of its own, where the replay meets nobody who looks for what is served, and where
    `forget` removes what a replay left (``offline.forgetting.journal.without_replay``)."""
    return replace(job, data_dir=job.data_dir / "replay")


@contextmanager
def replay_store(job: Job) -> Iterator[Store]:
    """The store of a ``replay_job``, under a prefix where nothing else is."""
    with store_at(job.data_dir, replay_prefix(job.config.name)) as store:
        yield store


def begin(job: Job, store: Store, count: int, others: int, seed: int) -> list[Visit]:
    """Publish the last trained model with what was known when the test period began, to a store that is emptied first;
    the visits of the period. DataError if nothing was trained yet."""
    path = job.models / "report.json"
    if not path.is_file() or not InteractionLog.is_saved(job.log):
        raise DataError("there is nothing to replay with yet: run `refresh` first")
    log = InteractionLog.load(job.log)
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    first = _test_begins(job.config.samples, log)
    config = job.config.model_copy(update={"workdir": job.config.workdir / "replay"})
    empty(store, store.keys.prefix)
    catalogue, report = open_dataset(job.config.data, job.raw).catalogue(), TrainingReport.load(path)
    past_log, past_knowledge = log_before(log, first), knowledge_before(knowledge, first)
    publish(config, store, Contents(catalogue, past_log, past_knowledge, report, job.models))
    return visits(log, first, count, others, seed, name=f"replay-{round(time.time())}")


def past(log: InteractionLog, samples: SamplesConfig, began_ms: int) -> pl.DataFrame:
    """Interactions before the test period as the archive has them, moved in time so that the period begins at
    ``began_ms``: what an analysis takes for the pre-period."""
    first = _test_begins(samples, log)
    return pl.DataFrame(
        {
            "request_id": pl.repeat(None, first, dtype=pl.String, eager=True),
            "unit": pl.Series(log.user_ids, dtype=pl.String)[log.user[:first]],
            "item": pl.Series(log.item_ids, dtype=pl.String)[log.item[:first]],
            "type": pl.repeat("rating", first, dtype=pl.String, eager=True),
            "value": log.value[:first],
            "time_ms": began_ms + log.time_ms[:first].astype(np.int64) - int(log.time_ms[first]) - 1,
        },
        INTERACTIONS,
    )


def _test_begins(samples: SamplesConfig, log: InteractionLog) -> int:
    return int(split_samples(samples, log).rows["test"][0])


def log_before(log: InteractionLog, row: int) -> InteractionLog:
    """The first ``row`` rows; users and items keep their numbers."""
    return replace(
        log,
        user=log.user[:row],
        item=log.item[:row],
        value=log.value[:row],
        time_ms=log.time_ms[:row],
        sampled=log.sampled[:row],
    )


def knowledge_before(knowledge: Knowledge, row: int) -> Knowledge:
    """The newest knowledge that a sample at log row ``row`` may see."""
    return Knowledge({name: _produced_before(produced, row) for name, produced in knowledge.produced.items()})


def _produced_before(produced: Produced, row: int) -> Produced:
    return replace(
        produced,
        users=None if produced.users is None else _users_before(produced.users, row),
        items=None if produced.items is None else _items_before(produced.items, row),
    )


def _users_before(users: UserVectors, row: int) -> UserVectors:
    numbers = np.arange(len(users.start) - 1)
    visible = users.visible(numbers, np.full(len(numbers), row))
    rank = np.arange(len(users.since)) - np.repeat(users.start[:-1], np.diff(users.start))
    visible_rows = rank < np.repeat(visible, np.diff(users.start))
    return UserVectors(
        users.space,
        users.vectors[visible_rows],
        np.concatenate([[0], np.cumsum(visible)]).astype(np.int64),
        users.since[visible_rows],
        None if users.codes is None else users.codes[visible_rows],
    )


def _items_before(items: ItemVectors, row: int) -> ItemVectors:
    slices = max(1, int(np.count_nonzero(items.from_row <= row)))
    return replace(items, vectors=items.vectors[:slices], from_row=items.from_row[:slices])


def visits(log: InteractionLog, first: int, count: int, others: int, seed: int, name: str) -> list[Visit]:
    """The first ``count`` interactions from log row ``first`` on, each among ``others`` that its user never took,
    drawn by how often everybody took them before; in random places."""
    random = np.random.default_rng(seed)
    popularity = np.bincount(log.item[:first], minlength=len(log.item_ids)).astype(np.float64)
    index = log.by_user()
    visited = []
    for row in range(first, min(first + count, len(log))):
        weights = popularity.copy()
        weights[log.item[index.of_user(int(log.user[row]))]] = 0.0
        fewer = min(others, int(np.count_nonzero(weights)))
        drawn = random.choice(len(weights), fewer, replace=False, p=weights / weights.sum())
        offered = random.permutation(np.append(drawn, log.item[row]))
        visited.append(
            Visit(
                request_id=f"{name}-{row}",
                user=log.user_ids[log.user[row]],
                item=log.item_ids[log.item[row]],
                value=float(log.value[row]),
                candidates=tuple(log.item_ids[number] for number in offered),
            )
        )
    return visited


async def replay(url: str, visits: list[Visit], top_k: int, rate: float | None, progress: bool = True) -> Replayed:
    """Send every visit and its feedback; ``rate`` visits per second at most. A call that fails is sent again.

    DataError if the service refuses a request as wrong, or does not recover.
    """
    result, started = Replayed(), time.monotonic()
    with tqdm(total=len(visits), desc="  replay", unit="request", disable=not progress) as bar:
        async with httpx2.AsyncClient(base_url=url, timeout=30.0, headers=authorization()) as client:
            try:
                await _all_lanes(client, visits, top_k, rate, result, bar)
            except* DataError as problems:
                raise DataError(str(problems.exceptions[0])) from problems
    result.seconds = round(time.monotonic() - started, 3)
    return result


def dropped(url: str) -> int:
    """Number of exposures that the service has dropped since it started, or still cannot write. DataError if it does
    not tell."""
    for _ in range(_ATTEMPTS):
        status = httpx2.get(f"{url}/v1/status", timeout=30.0, headers=authorization())
        if status.status_code != 200 or "exposures" not in status.json():  # a caller without a key gets a short answer
            raise DataError(refusal(status, "admin"))
        exposures = status.json()["exposures"]
        if not exposures["queued"]:
            break
        time.sleep(_PAUSE_S)
    return int(exposures["dropped"]) + int(exposures["queued"])


async def _all_lanes(
    client: httpx2.AsyncClient, visits: list[Visit], top_k: int, rate: float | None, result: Replayed, bar: Any
) -> None:
    lanes: list[asyncio.Queue[Visit | None]] = [asyncio.Queue(maxsize=100) for _ in range(LANES)]
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(_drive(client, lane, top_k, result, bar))
        for at, visit in enumerate(visits):
            if rate is not None:
                await asyncio.sleep(max(0.0, started + at / rate - time.monotonic()))
            await lanes[owner_tag(visit.user) % LANES].put(visit)
        for lane in lanes:
            await lane.put(None)


async def _drive(
    client: httpx2.AsyncClient, lane: asyncio.Queue[Visit | None], top_k: int, result: Replayed, bar: Any
) -> None:
    while (visit := await lane.get()) is not None:
        body = {
            "request_id": visit.request_id,
            "user_id": visit.user,
            "candidates": [{"id": candidate} for candidate in visit.candidates],
            "top_k": top_k,
        }
        answer = await _sent(client, "/v1/rank", body, result)
        shown = any(item["id"] == visit.item for item in answer["items"])
        event: dict[str, Any] = {"user_id": visit.user, "item_id": visit.item, "value": visit.value}
        if shown:
            event["request_id"] = visit.request_id
        event["timestamp_ms"] = round(time.time() * 1000)  # so that a repeated call changes nothing
        await _sent(client, "/v1/feedback", event, result)
        result.requests += 1
        result.shown += shown
        result.feedback += 1
        bar.update()


async def _sent(client: httpx2.AsyncClient, path: str, body: dict[str, Any], result: Replayed) -> dict[str, Any]:
    for _ in range(_ATTEMPTS):
        try:
            response = await client.post(path, json=body)
        except httpx2.TransportError:
            pass
        else:
            if response.status_code == 200:
                answer: dict[str, Any] = response.json()
                return answer
            if response.status_code not in (429, 503):
                raise DataError(refusal(response, path.rpartition("/")[2]))
        result.repeated += 1
        await asyncio.sleep(_PAUSE_S)
    raise DataError(f"the service at {client.base_url} does not answer {path}")
