"""Requests to the next job in Redis, and the reports of former ones (``models/contract/requests.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models.contract.keys import Keys
from models.contract.requests import MOST_REQUESTS, JobRequest, Report
from service.errors import NotFound, Unavailable
from service.ranking.deadline import Deadline
from service.redis import RedisPort, replies_to
from service.redis_connection import Command

Document = TypeVar("Document", bound=BaseModel)

TRIP_SECONDS = 5.0
LISTED = 200
"""Longest duration of a round trip, and how many of the newest requests or reports are listed."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests and reports under a service's prefix. RedisUnavailable from every method without Redis."""

    link: RedisPort
    keys: Keys

    async def ask(self, request: JobRequest) -> None:
        """Leave a request for the next job. Unavailable if too many are listed."""
        (count,) = await self._replies([("ZCARD", self.keys.requests)])
        if count >= MOST_REQUESTS:
            raise Unavailable(f"there are {count:,} requests: run a job", retry_after_ms=60_000)
        await self.write(request)

    async def write(self, request: JobRequest) -> None:
        """Store a request as it is now; beyond the most that are listed the oldest leave the list."""
        document, key = request.model_dump_json(), self.keys.request(request.id)
        await self._replies([("SET", key, document, "EXAT", request.ends_at)])
        listed: list[Command] = [
            ("ZADD", self.keys.requests, request.asked_ms, request.id),
            ("ZREMRANGEBYRANK", self.keys.requests, 0, -MOST_REQUESTS - 1),
        ]
        await self._replies(listed)

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
