"""All that is stored of a user, readable: by the list of stores by which users are forgotten."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from models.contract.requests import JobRequest, Records, RequestKind, RequestState, UserExport
from models.contract.traces import export_document
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.data.rules import counted
from offline.forgetting import rows
from offline.jobs.runs import Run, lasting_words
from offline.jobs.steps import Job
from offline.llm.cache import CacheError
from offline.publish.connection import Store
from offline.publish.erasure import user_records
from offline.publish.requests import change_request, open_requests, publish_export, without_forgotten
from offline.publish.tombstones import TombstoneWatch, forgotten_users
from offline.publish.undo import JournalError
from offline.store import owner_mark

_AGGREGATES = (
    "item statistics, popularity and indexes, in Redis and the artifact folder",
    "CTR models and their report, in models/ and the artifact folder",
    "codebooks, factors of items, projections and compressions, in knowledge/",
    "a tuned reranker, in reranker/",
    "numbers of users and interactions, in ledger.jsonl, arrivals.json, retraining.json and stages.json",
)
"""What was made of everybody's interactions, and holds no record of anybody."""


def exports_of(job: Job, users: Collection[str]) -> dict[str, UserExport]:
    """What the work folder, which this run holds, has of these users. CacheError, JournalError and DataError for stores
    that are damaged."""
    from offline.forgetting.contents import PromptsByMark, note_owners
    from offline.forgetting.stores import WORK_STORES

    rows.finish_removal(job)
    log = InteractionLog.load(job.log) if InteractionLog.is_saved(job.log) else InteractionLog.empty()
    prompts: PromptsByMark = {owner_mark(user): {} for user in users}
    note = note_owners(job, prompts) if rows.numbers_of(log, dict.fromkeys(users, 0)) else ""
    exports = {}
    for user in users:
        stored: Records = {}
        for work_store in WORK_STORES:
            stored |= work_store.records(job, log, user)
        for answer in stored["answers"]:
            if (prompt := prompts[owner_mark(user)].get(answer["key"])) is not None:
                answer["prompt"] = prompt.messages[-1][1]  # which is stored nowhere: made again
        exports[user] = UserExport(
            owner=user,
            made_ms=time.time_ns() // 1_000_000,
            configuration=job.config.name,
            stored=stored,
            aggregates=_AGGREGATES if user in log.user_ids else (),
            notes=(note,) if note else (),
        )
    return exports


def export_of(job: Job, store: Store, user: str) -> dict[str, Any]:
    """The export of a user: of Redis, and of the work folder, which this run holds."""
    export = exports_of(job, [user])[user]
    items = {row["item_id"] for row in export.stored["interactions in the log"]}
    stored = user_records(store, user, items) | {"export": export.model_dump(mode="json")}
    return export_document(user, forgotten_users(store, job.config.workdir).of(user), stored)


def answer_exports(run: Run, store: Store) -> None:
    """Carry out the requests for exports that wait. Those of users who opted out, or were forgotten since, are removed;
    what is published of a user who is forgotten meanwhile is deleted again. Of a user whose tombstone has come in this
    run, one that was asked for later waits for the next."""
    requests = [each for each in open_requests(store) if each.kind is RequestKind.EXPORT]
    if not requests:
        return
    job, watch = run.job, TombstoneWatch(store, run.job.config.workdir)
    asked = without_forgotten(store, requests, watch.until_ms)
    requests = [each for each in asked if each.user_id is None or not watch.blocks(each.user_id)]
    if not requests:
        return
    with run.step("export") as stopwatch:
        for request in requests:
            change_request(store, request.changed(RequestState.RUNNING))
        users = {each.user_id for each in requests if each.user_id is not None}
        try:
            exports = exports_of(job, sorted(users))
        except (CacheError, JournalError, DataError) as error:  # the run goes on: others wait for it
            for request in requests:
                change_request(store, request.changed(RequestState.FAILED, note=lasting_words(error)))
            print(f"  warning: nobody is exported: {error}", flush=True)
            stopwatch.done("failed")
            return
        for request in requests:
            _answer(store, request, exports.get(request.user_id or ""), watch)
        stopwatch.done(f"{counted(len(exports), 'user')} exported")


def _answer(store: Store, request: JobRequest, export: UserExport | None, watch: TombstoneWatch) -> None:
    if export is None:
        change_request(store, request.changed(RequestState.FAILED, note="it names no user"))
        return
    publish_export(store, export)
    if watch.look([export.owner]):
        store.redis.delete(store.keys.user_export(export.owner))
        without_forgotten(store, [request], watch.until_ms)
    else:
        change_request(
            store, request.changed(RequestState.DONE, note="GET /v1/users/{id}/export has it, in work_folder")
        )
