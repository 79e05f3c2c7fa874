"""Requests that wait for a job and are not about forgetting: each ends with a report, or with the reason why not."""

from __future__ import annotations

from models.contract.requests import JobRequest, ReportKind, RequestKind, RequestState
from offline.data.catalogue import DataError
from offline.jobs.steps import Job
from offline.publish.connection import Store
from offline.publish.requests import open_requests, publish_report, write_request

_NO_CLOSING = (
    "no job closes an open partition by request: a partition closes by the log alone, so that every run agrees and a "
    "text once paid stays that of its partition (docs/forgetting.md); lower knowledge.liber.partition_size, or "
    "set partition_days"
)


def answer_requests(job: Job, store: Store) -> None:
    """Carry out the dry runs that wait, and refuse what no job does."""
    for request in open_requests(store):
        if request.kind is RequestKind.DRY_RUN:
            write_request(store, request.changed(RequestState.RUNNING))
            write_request(store, _dry_run(job, store, request))
        elif request.kind is RequestKind.CLOSE_PARTITION:
            write_request(store, request.changed(RequestState.FAILED, note=_NO_CLOSING))


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
