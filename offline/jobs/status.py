"""The status: the live release, each producer's knowledge and its freshness, and the last runs with their cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np

from models.contract.artifact import ArtifactError, RefusedModel
from models.contract.knowledge import KnowledgeRecord, RecordError
from offline.data.log import InteractionLog
from offline.data.rules import counted
from offline.jobs.ledger import ProducerSummary, RunLedger, RunRecord, RunStatus
from offline.jobs.runs import holder
from offline.jobs.steps import Job, StepCache
from offline.knowledge import run as producers
from offline.knowledge.run import ProducerState, load_knowledge
from offline.knowledge.vectors import ItemVectors, Produced, UserVectors
from offline.metrics import in_words
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.knowledge import record_key
from offline.publish.producer import held_of, served
from offline.publish.release import live_release, read_manifest, refusal_line, refused_model, releases, withdrawn
from offline.publish.requests import open_requests
from offline.publish.tombstones import forgotten_users
from offline.training.retraining import Retraining

_SHOWN_RUNS = 5
_SAMPLE = 200
"""Records per space that are looked at to tell how fresh a space is."""


@dataclass(frozen=True, slots=True)
class Status:
    """``releases`` oldest first; ``refused`` is the model that the gate keeps off; ``producers`` by name; ``runs`` of
    the ledger, oldest first, then one that is at work or was killed and has no line yet."""

    store: str
    live: str | None
    releases: list[dict[str, Any]]
    refused: RefusedModel | None
    producers: dict[str, dict[str, Any]]
    stages: dict[str, Any]
    runs: list[RunRecord]
    streams: dict[str, int]
    at_work: str | None
    forgotten: dict[str, int]
    retraining: str

    def document(self) -> dict[str, Any]:
        runs = [run.document() for run in self.runs]
        refused = None if self.refused is None else self.refused.model_dump(mode="json")
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return own | {"runs": runs, "refused": refused}

    def lines(self) -> Iterator[str]:
        yield f"redis      {self.store}"
        yield f"live       {self.live or 'nothing'}"
        yield from map(_release_line, reversed(self.releases))
        if self.refused is not None:
            yield f"refused    {_when(self.refused.at)}, {refusal_line(self.refused)}"
        for name, producer in self.producers.items():
            counts = ", ".join(f"{producer[key]} {key}" for key in ("users", "versions", "items") if key in producer)
            completion = f"complete {_when(producer['finished_at'])}" if producer["finished_at"] else "not complete"
            yield f"producer   {name}: {completion}; {counts or 'nothing yet'}"
            yield from (f"             {_space_line(space)}" for space in producer["spaces"])
        for name, entry in self.stages.items():
            if name not in self.producers:
                yield f"stage      {name}: finished {_when(entry['finished_at'])}, took {entry['seconds']} s"
        yield f"streams    {self.streams['interactions']} interactions, {self.streams['exposures']} exposures held"
        arithmetic = next((run.arithmetic for run in reversed(self.runs) if run.arithmetic), None)
        yield f"arithmetic {arithmetic or 'chosen by the next run of a producer'}"
        users = self.forgotten
        if any(users.values()):
            yield (
                f"forgotten  {counted(users['tombstones'], 'user')}, {users['opted_out']} of them opted out; "
                f"{users['waiting']} to be carried out by the next job; {counted(users['open'], 'request')} open"
            )
        if self.retraining:
            yield f"retraining {self.retraining}"
        yield f"at work    {self.at_work or 'nobody'}"
        yield from map(_run_line, self.runs)


def status_of(job: Job, store: Store) -> Status:
    """The status as of now. Changes nothing."""
    live = live_release(store)
    redis: Any = store.redis
    now_at_work = holder(job.config.workdir)
    return Status(
        store=f"{store.url} (keys {store.keys.prefix}:*)",
        live=live,
        releases=[_release(store, release, live) for release in releases(store)],
        refused=refused_model(store),
        producers=_producers(job, store),
        stages=StepCache(job).all(),
        runs=_runs(job, now_at_work is not None),
        streams={name: redis.xlen(getattr(store.keys, name)) for name in ("interactions", "exposures")},
        at_work=None if now_at_work is None else now_at_work.described(),
        forgotten={**forgotten_users(store, job.config.workdir).counts, "open": len(open_requests(store))},
        retraining=Retraining.load(job.config.workdir).line,
    )


def _release(store: Store, release: str, live: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": release, "live": release == live, "withdrawn": release in withdrawn(store)}
    try:
        manifest = read_manifest(store, release)
    except ArtifactError as error:
        return {**entry, "error": str(error)}
    model = {"model": f"{manifest.model.name} {manifest.model.version}"}
    return entry | manifest.model_dump(include={"created_at", "items", "spaces", "metrics"}) | model


def _producers(job: Job, store: Store) -> dict[str, dict[str, Any]]:
    steps = StepCache(job).all()
    log = InteractionLog.load(job.log) if InteractionLog.is_saved(job.log) else None
    known = {} if log is None else load_knowledge(job.knowledge, job.config.feature_schema, log).produced
    entries = {}
    for name in producers.producers_of(job.config.feature_schema):
        produced = known.get(name, Produced())
        state = ProducerState.MADE if name in known else ProducerState.ABSENT
        entry = ProducerSummary.of(state, produced).document()
        entry["finished_at"] = steps.get(name, {}).get("finished_at")
        live, held_back = served(store, name), held_of(store, produced.spaces)
        entry["spaces"] = [
            {
                "key": vectors.space.key,
                "fingerprint": vectors.space.fingerprint,
                **vectors.space.model_dump(include={"rows", "dim", "dtype"}),
                "served": live.get(vectors.space.key) == vectors.space.fingerprint,
                "held": vectors.space.key in held_back,
                "freshness": _freshness(store, log, vectors),
            }
            for vectors in (produced.users, produced.items)
            if vectors is not None and log is not None
        ]
        entries[name] = entry
    return entries


def _freshness(store: Store, log: InteractionLog, vectors: UserVectors | ItemVectors) -> dict[str, int]:
    """How many of up to 200 owners, evenly spread, have a fresh, a stale, or no record."""
    space = vectors.space
    if isinstance(vectors, UserVectors):
        ids, known = log.user_ids, np.flatnonzero(np.diff(vectors.start))
    else:
        ids, known = log.item_ids, np.flatnonzero(vectors.known)
    chosen = [ids[at] for at in known[:: max(1, -(-len(known) // _SAMPLE))]]
    with Bulk(store.redis) as bulk:
        blobs = bulk.get([record_key(store, space.side, owner, space.fingerprint) for owner in chosen])
    counts, now = {"fresh": 0, "stale": 0, "missing": 0}, time.time()
    for owner, blob in zip(chosen, blobs, strict=True):
        try:
            record = KnowledgeRecord.unpack(blob or b"", owner, space.fingerprint)
            counts["fresh" if record.is_fresh(now) else "stale"] += 1
        except RecordError:
            counts["missing"] += 1
    return counts


def _runs(job: Job, at_work: bool) -> list[RunRecord]:
    ledger = RunLedger(job.config.workdir)
    runs = ledger.runs()[-_SHOWN_RUNS:]
    if (lost := ledger.lost()) is not None:
        lost.status = RunStatus.RUNNING if at_work else lost.status
        runs.append(lost)
    return runs


def _release_line(release: dict[str, Any]) -> str:
    marker = "*" if release["live"] else "-" if release["withdrawn"] else " "
    if "error" in release:
        return f"release  {marker} {release['id']}: {release['error']}"
    return (
        f"release  {marker} {release['id']}  {_when(release['created_at'])}  {release['items']} items  "
        f"model {release['model']}  validation AUC {in_words(release['metrics'].get('validation_auc'))}"
    )


def _space_line(space: dict[str, Any]) -> str:
    freshness = ", ".join(f"{count} {name}" for name, count in space["freshness"].items())
    return (
        f"{space['key']} {space['fingerprint']} {space['rows']} x {space['dim']} {space['dtype']}"
        f"{', served' if space['served'] else ', not served'}{', held' if space['held'] else ''}; sample: {freshness}"
    )


def _run_line(run: RunRecord) -> str:
    llm = run.llm
    asked = (
        "nothing asked"
        if llm is None
        else f"{llm.calls} calls, {llm.cache_hits} from cache, {llm.prompt_tokens} + {llm.completion_tokens} "
        f"tokens, cost {llm.cost:.4f}"
    )
    counts = run.faithfulness.values()
    if answers := sum(of_kind.get("answers", 0) for of_kind in counts):
        unfaithful = sum(of_kind.get("unfaithful", 0) for of_kind in counts)
        asked += f", {unfaithful} of {answers} new answers name what their question does not"
    reasons = f"; {'; '.join(run.reasons)}" if run.reasons else ""
    return (
        f"run        {run.started_at} {run.job}: {run.status} after {run.seconds:.1f} s; {asked}; "
        f"{run.bytes_written} bytes written{reasons}"
    )


def _when(seconds: int) -> str:
    age = (time.time() - seconds) / 3600
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC ({age:.1f} h ago)"
