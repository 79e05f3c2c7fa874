"""Requests that wait for a job and are not about forgetting: each ends with what it asked for, or with the reason why
not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.contract.requests import JobRequest, ReportKind, RequestKind, RequestState
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.data.rules import counted
from offline.jobs.runs import lasting_words
from offline.jobs.steps import Job
from offline.knowledge.liber.partitions import close_partitions
from offline.publish.connection import Store
from offline.publish.requests import change_request, open_requests, publish_report, without_forgotten
from offline.publish.tombstones import forgotten_users

LEAST_EVENTS = 2
"""Interactions below which an open partition is left open: one says nothing that its item does not."""


def answer_requests(job: Job, store: Store) -> None:
    """Carry out the dry runs that wait: one, whose report all of them name."""
    requests = [request for request in open_requests(store) if request.kind is RequestKind.DRY_RUN]
    if not requests:
        return
    for request in requests:
        change_request(store, request.changed(RequestState.RUNNING))
    state, note = _dry_run(job, store, requests[0].id)
    for request in requests:
        change_request(store, request.changed(state, note=note))


def close_asked_partitions(
    job: Job, store: Store | None, log: InteractionLog
) -> tuple[InteractionLog, list[JobRequest]]:
    """The log with the open partitions closed that somebody asked to be closed, and these requests with their outcomes,
    to be written once the log is saved. Those of users who opted out, or were forgotten since, are removed."""
    every = [] if store is None else open_requests(store)
    requests = [request for request in every if request.kind is RequestKind.CLOSE_PARTITION]
    if store is not None and requests:
        requests = without_forgotten(store, requests, forgotten_users(store, job.config.workdir).until_ms)
    if not requests:
        return log, []
    if not {"liber", "autograph"} & {spec.name for spec in job.config.feature_schema.user_knowledge}:
        refused = "no producer of this configuration reads partitions"
        return log, [request.changed(RequestState.FAILED, note=refused) for request in requests]
    numbers, opened = {name: number for number, name in enumerate(log.user_ids)}, _open_events(job, log)
    answers, closed = [], list[int]()
    for request in requests:
        user = numbers.get(request.user_id or "")
        if user is None:
            note = "the jobs know no interaction of this user" if request.user_id else "it names no user"
            answers.append(request.changed(RequestState.FAILED, note=note))
            continue
        if opened[user] < LEAST_EVENTS:
            note = f"nothing to close: the open partition has {counted(opened[user], 'interaction')}"
        else:
            interactions = counted(opened[user], "interaction")
            note = f"closed, with {interactions}; the language model tells of it when it is asked next"
            closed.append(user)
            opened[user] = 0
        answers.append(request.changed(RequestState.DONE, note=note))
    return log.closing(*closed), answers


def _open_events(job: Job, log: InteractionLog) -> list[int]:
    """[users] how many interactions are in the open partition of each user."""
    partitions = close_partitions(log, job.config.knowledge.liber.trigger)
    closed = np.bincount(partitions.user, np.diff(partitions.row_start), len(log.user_ids)).astype(np.int64)
    opened: list[int] = (np.bincount(log.user[~log.sampled], minlength=len(log.user_ids)) - closed).tolist()
    return opened


def _dry_run(job: Job, store: Store, name: str) -> tuple[RequestState, str]:
    """The outcome of requests and their note. The report is that of ``refresh --dry-run``, but that it quotes no
    data."""
    from offline.jobs.dry_run import dry_run

    try:
        plan = dry_run(job)
        plan = replace(plan, findings=plan.findings.lasting())
        body = {"request": name, "lines": list(plan.lines()), **plan.summary()}
        return RequestState.DONE, publish_report(store, ReportKind.DRY_RUN, name, body)
    except (DataError, ValueError) as error:
        return RequestState.FAILED, lasting_words(error)
