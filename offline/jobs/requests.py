"""Requests that wait for a job and are not about forgetting: each ends with what it asked for, or with the reason why
not."""

from __future__ import annotations

import numpy as np

from models.contract.requests import JobRequest, ReportKind, RequestKind, RequestState
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.data.rules import counted
from offline.jobs.steps import Job
from offline.knowledge.liber.partitions import close_partitions
from offline.publish.connection import Store
from offline.publish.requests import open_requests, publish_report, write_request

LEAST_EVENTS = 2
"""Interactions below which an open partition is left open: one says nothing that its item does not."""


def answer_requests(job: Job, store: Store) -> None:
    """Carry out the dry runs that wait."""
    for request in open_requests(store):
        if request.kind is RequestKind.DRY_RUN:
            write_request(store, request.changed(RequestState.RUNNING))
            write_request(store, _dry_run(job, store, request))


def close_asked_partitions(
    job: Job, store: Store | None, log: InteractionLog
) -> tuple[InteractionLog, list[JobRequest]]:
    """The log with the open partitions closed that somebody asked to be closed, and these requests with their outcomes,
    to be written once the log is saved."""
    answers = []
    for request in [] if store is None else open_requests(store):
        if request.kind is RequestKind.CLOSE_PARTITION:
            log, answer = _with_closing(job, request, log)
            answers.append(answer)
    return log, answers


def _with_closing(job: Job, request: JobRequest, log: InteractionLog) -> tuple[InteractionLog, JobRequest]:
    refused: str | None = None
    if not {"liber", "autograph"} & {spec.name for spec in job.config.feature_schema.user_knowledge}:
        refused = "no producer of this configuration reads partitions"
    elif request.user_id not in log.user_ids:
        refused = "the jobs know no interaction of this user"
    if refused is not None or request.user_id is None:
        return log, request.changed(RequestState.FAILED, note=refused or "it names no user")
    user = log.user_ids.index(request.user_id)
    partitions = close_partitions(log, job.config.knowledge.liber.trigger)
    first, end = partitions.row_start[partitions.start[user]], partitions.row_start[partitions.start[user + 1]]
    count = int(np.sum((log.user == user) & ~log.sampled)) - int(end - first)
    if count < LEAST_EVENTS:
        note = f"nothing to close: the open partition has {counted(count, 'interaction')}"
        return log, request.changed(RequestState.DONE, note=note)
    note = f"closed, with {counted(count, 'interaction')}; the language model tells of it when it is asked next"
    return log.closing(user), request.changed(RequestState.DONE, note=note)


def _dry_run(job: Job, store: Store, request: JobRequest) -> JobRequest:
    """The request with its outcome; the report is that of ``refresh --dry-run``."""
    from offline.jobs.dry_run import dry_run

    try:
        plan = dry_run(job)
        body = {"request": request.id, "lines": list(plan.lines()), **plan.summary()}
        name = publish_report(store, ReportKind.DRY_RUN, request.id, body)
    except (DataError, ValueError) as error:
        return request.changed(RequestState.FAILED, note=f"{type(error).__name__}: {error}")
    return request.changed(RequestState.DONE, note=name)
