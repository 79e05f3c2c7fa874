"""Requests to the next job in Redis, and the reports of former ones (``models/contract/requests.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models.contract.keys import Keys
from models.contract.requests import MOST_REQUESTS, JobRequest, Report, RequestKind
from service.errors import NotFound, Unavailable
from service.ranking.deadline import Deadline
from service.redis import RedisPort, replies_to
from service.redis_connection import Command

Document = TypeVar("Document", bound=BaseModel)

TRIP_SECONDS = 5.0
LISTED = 200
"""Longest duration of a round trip, and how many of the newest requests or reports are listed."""

READ_AT_ONCE = 500
"""Requests that are read in one round trip, where all of them are."""

SINGLE = (RequestKind.DRY_RUN, RequestKind.CLOSE_PARTITION)
"""Kinds of which there is one open request at a time, of the same user if it is about one: each costs a job time."""

CLOSE_AT_MOST = 100
"""Open requests of an API key to close partitions."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests and reports under a service's prefix. RedisUnavailable from every method without Redis."""

    link: RedisPort
    keys: Keys

    async def ask(self, request: JobRequest) -> JobRequest:
        """Leave a request for the next job; it, or the open one that asks for the same. Unavailable if too many are
        open, of all or of who asks; one to forget a user is always taken."""
        if request.kind in SINGLE:
            others = await self._open(request.kind)
            for other in others:
                if other.user_id == request.user_id:
                    return other
            if sum(other.asked_by == request.asked_by for other in others) >= CLOSE_AT_MOST:
                raise Unavailable(
                    f"{CLOSE_AT_MOST} requests of this kind wait for a job, and no more are taken of one API key: run "
                    "a job",
                    retry_after_ms=60_000,
                )
        if not await self._has_room() and request.kind is not RequestKind.FORGET:
            raise Unavailable(f"{MOST_REQUESTS:,} requests wait for a job: run one", retry_after_ms=60_000)
        await self.write(request)
        if request.kind in SINGLE:
            await self._replies([("ZADD", self.keys.open_requests(request.kind), request.asked_ms, request.id)])
        return request

    async def write(self, request: JobRequest) -> None:
        """Store a request as it is now."""
        document, key = request.model_dump_json(), self.keys.request(request.id)
        await self._replies([("SET", key, document, "EXAT", request.ends_at)])
        await self._replies([("ZADD", self.keys.requests, request.asked_ms, request.id)])

    async def remove(self, user_id: str, until_ms: int) -> int:
        """Remove the requests about a user that were asked for until a time (unix ms), but for receipts; their
        number."""
        names = [
            name
            async for name, request in self._listed()
            if request is not None
            and request.user_id == user_id
            and request.kind is not RequestKind.FORGET
            and request.asked_ms <= until_ms
        ]
        await self._replies([("DEL", self.keys.request(name)) for name in names])
        await self._replies([("ZREM", self.keys.requests, *names)] if names else [])
        return len(names)

    async def read(self, request_id: str) -> JobRequest:
        """NotFound for a request that never was, or has ended."""
        (document,) = await self._replies([("GET", self.keys.request(request_id))])
        if document is None:
            raise NotFound("there is no such request, or it ended a while ago")
        return JobRequest.model_validate_json(document)

    async def all(self) -> list[JobRequest]:
        """The newest requests, newest first."""
        documents = await self._named(self.keys.requests, self.keys.request)
        return _understood(JobRequest, documents)

    async def report(self, name: str) -> Report:
        """NotFound for a report that never was, or has ended."""
        (document,) = await self._replies([("GET", self.keys.report(name))])
        if document is None:
            raise NotFound("there is no such report, or it ended a while ago")
        return Report.model_validate_json(document)

    async def reports(self) -> list[Report]:
        """The newest reports, newest first."""
        documents = await self._named(self.keys.reports, self.keys.report)
        return _understood(Report, documents)

    async def _has_room(self) -> bool:
        """Whether another request may be listed. If as many are as may be, those that ended leave the list, the oldest
        first, and of those that are done nothing stays but receipts."""
        (count,) = await self._replies([("ZCARD", self.keys.requests)])
        if count < MOST_REQUESTS:
            return True
        former: list[str] = []
        done: list[str] = []
        async for name, request in self._listed():
            if request is None or not request.is_open:
                former.append(name)
                if request is not None and request.kind is not RequestKind.FORGET:
                    done.append(name)
            if len(former) >= max(READ_AT_ONCE, count - MOST_REQUESTS + 1):
                break
        await self._replies([("DEL", self.keys.request(name)) for name in done])
        await self._replies([("ZREM", self.keys.requests, *former)] if former else [])
        return bool(count - len(former) < MOST_REQUESTS)

    async def _open(self, kind: RequestKind) -> list[JobRequest]:
        """The open requests of a kind, oldest first."""
        index = self.keys.open_requests(kind)
        (names,) = await self._replies([("ZRANGE", index, 0, -1)])
        documents = await self._replies([("GET", self.keys.request(name.decode())) for name in names])
        requests = {name: _understood(JobRequest, [document]) for name, document in zip(names, documents, strict=True)
                    if document is not None}  # fmt: skip
        ended = [name for name in names if not any(each.is_open for each in requests.get(name, []))]
        await self._replies([("ZREM", index, *ended)] if ended else [])
        return [each for name, of_name in requests.items() if name not in ended for each in of_name]

    async def _listed(self) -> AsyncIterator[tuple[str, JobRequest | None]]:
        """(id, request) of all that are listed when it begins, oldest first; None of one that has ended. One that is
        damaged, or of another version, is left out. Others have their turn between two pages."""
        (names,) = await self._replies([("ZRANGE", self.keys.requests, 0, -1)])
        for at in range(0, len(names), READ_AT_ONCE):
            page = [name.decode() for name in names[at : at + READ_AT_ONCE]]
            documents = await self._replies([("GET", self.keys.request(name)) for name in page])
            for name, document in zip(page, documents, strict=True):
                if document is None:
                    yield name, None
                for request in _understood(JobRequest, [] if document is None else [document]):
                    yield name, request
            await asyncio.sleep(0)

    async def _named(self, index: str, key: Any) -> list[bytes]:
        (names,) = await self._replies([("ZRANGE", index, "+inf", "-inf", "BYSCORE", "REV", "LIMIT", 0, LISTED)])
        replies = await self._replies([("GET", key(name.decode())) for name in names])
        ended = [name for name, reply in zip(names, replies, strict=True) if reply is None]
        if ended:
            await self._replies([("ZREM", index, *ended)])
        return [reply for reply in replies if reply is not None]

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        return await replies_to(self.link, commands, Deadline(TRIP_SECONDS)) if commands else []


def _understood(kind: type[Document], documents: Sequence[bytes]) -> list[Document]:
    """The documents without those of another version."""
    understood = []
    for document in documents:
        with suppress(ValidationError):
            understood.append(kind.model_validate_json(document))
    return understood
