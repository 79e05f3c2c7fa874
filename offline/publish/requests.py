"""Requests that wait for a job, and reports that jobs publish, in Redis (models/contract/requests.py)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from models.contract.requests import (
    EXPORT_SECONDS,
    MOST_REPORTS,
    REPORT_SECONDS,
    JobRequest,
    Report,
    ReportKind,
    RequestKind,
    RequestState,
    UserExport,
)
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.records import chunks


def open_requests(store: Store) -> list[JobRequest]:
    """Requests that wait or were begun, oldest first. What is damaged or of another version is left alone."""
    return [request for request in _requests(store) if request.is_open]


def write_request(store: Store, request: JobRequest) -> None:
    """Store a new request."""
    document: Any = request.model_dump_json()
    store.redis.set(store.keys.request(request.id), document, exat=request.ends_at)
    store.redis.zadd(store.keys.requests, {request.id: request.asked_ms})


def change_request(store: Store, request: JobRequest) -> None:
    """Store a request as it is now, unless it is gone: whoever forgets its user removes it while a job is at work."""
    document: Any = request.model_dump_json()
    store.redis.set(store.keys.request(request.id), document, exat=request.ends_at, xx=True)


def remove_requests(store: Store, until_ms: Mapping[str, int]) -> None:
    """Remove the requests about users that were asked for until their times (unix ms), but for receipts. Reports of dry
    runs until then go, and of the notes of what failed the kinds of the errors stay alone: an earlier version quoted
    data in both."""
    latest_ms = max(until_ms.values(), default=-1)
    for request in list(_requests(store)):
        if request.kind is RequestKind.FORGET:
            continue
        if request.asked_ms <= until_ms.get(request.user_id or "", -1):
            store.redis.delete(store.keys.request(request.id))
            store.redis.zrem(store.keys.requests, request.id)
        elif request.state is RequestState.FAILED and request.changed_ms <= latest_ms and ":" in request.note:
            note = request.note.partition(":")[0]
            change_request(store, request.model_copy(update={"note": note}))  # it ends when it would have
    names: Any = store.redis.zrangebyscore(store.keys.reports, "-inf", latest_ms)
    for name in names:
        if name.startswith(f"{ReportKind.DRY_RUN}-".encode()):
            _remove_report(store, name)


def drop_ended(store: Store) -> None:
    """Take requests off the list that have ended."""
    names: Any = store.redis.zrange(store.keys.requests, 0, -1)
    with Bulk(store.redis) as bulk:
        for chunk in chunks(names):
            stored = bulk.lengths([store.keys.request(name.decode()) for name in chunk])
            if ended := [name for name, length in zip(chunk, stored, strict=True) if not length]:
                store.redis.zrem(store.keys.requests, *ended)


def publish_export(store: Store, export: UserExport) -> None:
    """Publish what the work folder has of a user, in place of what there is."""
    store.redis.set(store.keys.user_export(export.owner), export.pack(), ex=EXPORT_SECONDS)


def publish_report(store: Store, kind: ReportKind, name: str, body: Mapping[str, Any]) -> str:
    """Publish a report ``KIND-NAME``; that name. Those that ended, and the oldest of too many, leave the list.
    ValueError if it is too large."""
    now = time.time_ns() // 1_000_000
    report = Report(name=f"{kind}-{name}", kind=kind, made_ms=now, body=body)
    document: Any = report.pack()
    store.redis.set(store.keys.report(report.name), document, ex=REPORT_SECONDS)
    store.redis.zadd(store.keys.reports, {report.name: now})
    store.redis.zremrangebyscore(store.keys.reports, "-inf", now - 1000 * REPORT_SECONDS)
    oldest: Any = store.redis.zrange(store.keys.reports, 0, -MOST_REPORTS - 1)
    for former in oldest:
        _remove_report(store, former)
    return report.name


def _remove_report(store: Store, name: bytes) -> None:
    store.redis.delete(store.keys.report(name.decode()))
    store.redis.zrem(store.keys.reports, name)


def _requests(store: Store) -> Iterator[JobRequest]:
    names: Any = store.redis.zrange(store.keys.requests, 0, -1)
    with Bulk(store.redis) as bulk:
        for chunk in chunks(names):
            for document in bulk.get([store.keys.request(name.decode()) for name in chunk]):
                try:
                    if document is not None:
                        yield JobRequest.model_validate_json(document)
                except ValidationError:
                    continue
