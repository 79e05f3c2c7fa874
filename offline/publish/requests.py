"""Requests that wait for a job, and reports that jobs publish, in Redis (models/contract/requests.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from models.contract.forgetting import EVERYTHING_MS
from models.contract.request_places import (
    RedisScript,
    document_key,
    is_about,
    is_damaged,
    removing,
    types_of_lists,
    writing,
)
from models.contract.requests import (
    EXPORT_SECONDS,
    MOST_REPORTS,
    MOST_REQUESTS,
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
    return [request for _, request in _understood(store, store.keys.open_requests) if request.is_open]


def write_request(store: Store, request: JobRequest) -> None:
    """Store a new request."""
    _run(store, writing(store.keys, request))


def change_request(store: Store, request: JobRequest) -> None:
    """Store a request as it is now, unless it is gone: whoever forgets its user removes it while a job is at work."""
    _run(store, writing(store.keys, request, only_if_there=True))


def without_forgotten(store: Store, asked: Sequence[JobRequest], until_ms: Callable[[str], int]) -> list[JobRequest]:
    """The requests that were asked for after the times (unix ms) until which their users are forgotten. The others,
    and all of users who opted out, are removed: nobody answers them, and they name their users."""
    gone = {each.id for each in asked if each.user_id is not None and each.asked_ms <= until_ms(each.user_id)}
    _remove(store, [name.encode() for name in sorted(gone)])
    return [each for each in asked if each.id not in gone]


def remove_requests(store: Store, until_ms: Mapping[str, int], at_once: Collection[str] = ()) -> None:
    """Remove the requests about users that were asked for until their times (unix ms), or of users ``at_once`` whenever
    they were, of whatever version, but for receipts. Reports of dry runs until then go, and of the notes of what failed
    the kinds of the errors stay alone: an earlier version quoted data in both."""
    about_ms = {user: EVERYTHING_MS if user in at_once else time_ms for user, time_ms in until_ms.items()}
    latest_ms = max(until_ms.values(), default=-1)
    for index in _lists(store):
        about = [name for name, document in _stored(store, index) if document and is_about(document, about_ms)]
        _remove(store, about)
    for _, request in list(_understood(store, store.keys.done_requests)):
        if request.state is RequestState.FAILED and request.changed_ms <= latest_ms and ":" in request.note:
            note = request.note.partition(":")[0]
            change_request(store, request.model_copy(update={"note": note}))  # it ends when it would have
    names: Any = store.redis.zrangebyscore(store.keys.reports, "-inf", latest_ms)
    for name in names:
        if name.startswith(f"{ReportKind.DRY_RUN}-".encode()):
            _remove_report(store, name)


def drop_ended(store: Store) -> None:
    """Take requests off their lists that have ended, and the oldest that are done of too many, of which nothing stays
    but receipts. What lies there and is of no use to anybody, because it is damaged, goes too, which is said."""
    for key, list_type in types_of_lists(store.keys).items():
        kind: Any = store.redis.type(key)
        if kind not in (list_type, b"none"):
            print(f"  warning: {key} was no {list_type.decode()} but a {kind.decode()}, and is removed", flush=True)
            store.redis.delete(key)
    for index in _lists(store):
        with Bulk(store.redis) as bulk:
            for chunk in chunks(_names(store, index)):
                kinds = bulk.ask([("TYPE", document_key(store.keys, name)) for name in chunk])
                gone = [name for name, kind in zip(chunk, kinds, strict=True) if kind != b"string" or is_damaged(name)]
                for name, kind in zip(chunk, kinds, strict=True):
                    if kind not in (b"string", b"none") or is_damaged(name):
                        key = str(document_key(store.keys, name))[2:-1]
                        print(f"  warning: {key} is damaged, no request, and is removed", flush=True)
                _remove(store, gone)
    done = store.keys.done_requests
    if (surplus := int(store.redis.zcard(done)) - MOST_REQUESTS) > 0:
        for name, request in list(_understood(store, done, surplus)):
            if request.kind is RequestKind.FORGET:
                store.redis.zrem(done, name)
            else:
                _remove(store, [name])


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
    store.redis.delete(store.keys.report("").encode() + name)
    store.redis.zrem(store.keys.reports, name)


def _lists(store: Store) -> tuple[str, str]:
    """Both lists of requests; those that a job or service moves meanwhile are seen on the second."""
    return store.keys.open_requests, store.keys.done_requests


def _run(store: Store, script: RedisScript) -> None:
    _, text, count, *rest = script
    redis: Any = store.redis
    redis.eval(text, count, *rest)


def _names(store: Store, index: str, most: int = 0) -> list[bytes]:
    """Names on a list, oldest first, ``most`` or all; none if it is no list, which ``drop_ended`` removes."""
    kind: Any = store.redis.type(index)
    names: Any = store.redis.zrange(index, 0, most - 1) if kind == b"zset" else []
    return list(names)


def _remove(store: Store, names: Sequence[bytes]) -> None:
    with Bulk(store.redis) as bulk:
        bulk.ask([removing(store.keys, name) for name in names])


def _stored(store: Store, index: str, most: int = 0) -> Iterator[tuple[bytes, bytes | None]]:
    """(name, document) of the requests on a list, oldest first, ``most`` or all; None of one that has ended, or that is
    damaged."""
    with Bulk(store.redis) as bulk:
        for chunk in chunks(_names(store, index, most)):
            yield from zip(chunk, bulk.get([document_key(store.keys, name) for name in chunk]), strict=True)


def _understood(store: Store, index: str, most: int = 0) -> Iterator[tuple[bytes, JobRequest]]:
    for name, document in _stored(store, index, most):
        with suppress(ValidationError):
            if document is not None:
                yield name, JobRequest.model_validate_json(document)
