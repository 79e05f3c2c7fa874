"""Requests to the next job in Redis, and the reports of former ones (``models/contract/requests.py``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models.contract.keys import Keys
from models.contract.request_places import (
    ALL_REFUSED,
    OF_ASKER_REFUSED,
    asking,
    document_key,
    is_about,
    is_damaged,
    removing,
    types_of_lists,
    writing,
)
from models.contract.requests import MOST_REQUESTS, JobRequest, Report, RequestKind
from service.errors import NotFound, RedisUnavailable, Unavailable
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

_ASKED_AT_MOST = 5
"""How often at most a request is stored in place of one for the same that is gone, ended or not understood."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests and reports under a service's prefix. RedisUnavailable from every method without Redis. What is damaged
    counts as ended, and what is of no use to anybody is removed by whoever meets it; the log says so."""

    link: RedisPort
    keys: Keys

    async def ask(self, request: JobRequest) -> JobRequest:
        """Leave a request for the next job; it, or the open one that asks for the same. Unavailable if too many are
        open, of all or of who asks; one to forget a user is always taken."""
        of_asker = CLOSE_AT_MOST if request.kind in SINGLE else None
        most = None if request.kind is RequestKind.FORGET else MOST_REQUESTS
        refusals = {
            OF_ASKER_REFUSED: f"{CLOSE_AT_MOST} requests of this kind wait for a job, and no more are taken of one API "
            "key: run a job",
            ALL_REFUSED: f"{MOST_REQUESTS:,} requests wait for a job: run one",
        }
        former: bytes = b""
        for _ in range(_ASKED_AT_MOST):
            (reply,) = await self._replies([asking(self.keys, request, of_asker, most, former)])
            if reply in refusals:
                raise Unavailable(refusals[reply], retry_after_ms=60_000)
            if (former := reply) == request.id.encode():
                return request
            (document,) = await self._documents([document_key(self.keys, former)])
            for other in _understood(JobRequest, [] if document is None else [document]):
                if other.is_open:
                    return other
        raise Unavailable("others ask for the same, and it ends each time: ask again", retry_after_ms=1000)

    async def write(self, request: JobRequest) -> None:
        """Store a request as it is now."""
        await self._replies([writing(self.keys, request)])

    async def remove(self, user_id: str, until_ms: int) -> int:
        """Remove the requests about a user that were asked for until a time (unix ms), of whatever version, but for
        receipts; their number."""
        count = 0
        async for page in self._pages():
            about = [
                name for name, document in page if document is not None and is_about(document, {user_id: until_ms})
            ]
            ended = [name for name, document in page if document is None]
            await self._replies([removing(self.keys, name) for name in (*about, *ended)])
            count += len(about)
        return count

    async def read(self, request_id: str) -> JobRequest:
        """NotFound for a request that never was, has ended, or is not understood."""
        return await self._single(JobRequest, "request", self.keys.request(request_id))

    async def all(self) -> list[JobRequest]:
        """The newest requests, newest first."""
        newest = await self._newest(self.keys.open_requests, self.keys.done_requests)
        documents = await self._documents([document_key(self.keys, name) for name in newest])
        ended = [name for name, document in zip(newest, documents, strict=True) if document is None]
        await self._replies([removing(self.keys, name) for name in ended])
        return _understood(JobRequest, [document for document in documents if document is not None])

    async def report(self, name: str) -> Report:
        """NotFound for a report that never was, has ended, or is not understood."""
        return await self._single(Report, "report", self.keys.report(name))

    async def reports(self) -> list[Report]:
        """The newest reports, newest first."""
        newest = await self._newest(self.keys.reports)
        documents = await self._documents([self.keys.report("").encode() + name for name in newest])
        ended = [name for name, document in zip(newest, documents, strict=True) if document is None]
        await self._replies([("ZREM", self.keys.reports, *ended)] if ended else [])
        return _understood(Report, [document for document in documents if document is not None])

    async def _single(self, kind: type[Document], noun: str, key: str) -> Document:
        (document,) = await self._documents([key])
        if document is None:
            raise NotFound(f"there is no such {noun}, or it ended a while ago")
        for understood in _understood(kind, [document]):
            return understood
        raise NotFound(f"this {noun} is damaged, or of a later version: ask a service of that version")

    async def _newest(self, *indexes: str) -> list[bytes]:
        """The last names of sorted sets by time, newest first."""
        rows = ("+inf", "-inf", "BYSCORE", "REV", "LIMIT", 0, LISTED, "WITHSCORES")
        replies = await self._replies([("ZRANGE", index, *rows) for index in indexes])
        times = {name: float(time) for cells in replies for name, time in zip(cells[::2], cells[1::2], strict=True)}
        newest = sorted(times, key=lambda name: (times[name], name), reverse=True)
        return newest[:LISTED]

    async def _pages(self) -> AsyncIterator[list[tuple[bytes, bytes | None]]]:
        """(name, document) of all requests there are when it begins; None of one that has ended. Others have their turn
        between two pages."""
        # In this order: a job moves them from the first list to the second.
        lists = await self._replies(
            [("ZRANGE", index, 0, -1) for index in (self.keys.open_requests, self.keys.done_requests)]
        )
        names = list(dict.fromkeys(name for names in lists for name in names))
        for at in range(0, len(names), READ_AT_ONCE):
            page = names[at : at + READ_AT_ONCE]
            documents = await self._documents([document_key(self.keys, name) for name in page])
            yield list(zip(page, documents, strict=True))
            await asyncio.sleep(0)

    async def _documents(self, keys: Sequence[str | bytes]) -> list[bytes | None]:
        """What lies under each key; None where nothing does, or what is no document."""
        commands: list[Command] = [("GET", key) for key in keys]
        replies = await self.link.round_trip(commands, Deadline(TRIP_SECONDS)) if commands else []
        for at, (key, reply) in enumerate(zip(keys, replies, strict=True)):
            if _is_wrong_type(reply) or (isinstance(key, bytes) and is_damaged(key)):
                log.warning("%r is damaged, neither a request nor a report: it counts as ended", key)
                replies[at] = None
            elif isinstance(reply, Exception):
                raise RedisUnavailable(f"{type(reply).__name__}: {reply}") from reply
        return replies

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        replies = await self.link.round_trip(commands, Deadline(TRIP_SECONDS))
        if any(isinstance(reply, Exception) for reply in replies):
            if any(map(_is_wrong_type, replies)):
                await self._remove_other_types()
            replies = await replies_to(self.link, commands, Deadline(TRIP_SECONDS))  # each may be repeated
        return replies

    async def _remove_other_types(self) -> None:
        """Remove what lies where the lists are and is none: with it nobody could be forgotten."""
        types = types_of_lists(self.keys)
        probes: list[Command] = [
            ("ZCARD", key) if kind == b"zset" else ("HGET", key, "") for key, kind in types.items()
        ]
        replies = await self.link.round_trip(probes, Deadline(TRIP_SECONDS))
        for (key, kind), reply in zip(types.items(), replies, strict=True):
            if _is_wrong_type(reply):
                log.warning("%s is of another type than %s, and is removed", key, kind.decode())
                await replies_to(self.link, [("DEL", key)], Deadline(TRIP_SECONDS))


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, Exception) and "WRONGTYPE" in str(reply)


def _understood(kind: type[Document], documents: Sequence[bytes]) -> list[Document]:
    """The documents without those of another version."""
    understood = []
    for document in documents:
        with suppress(ValidationError):
            understood.append(kind.model_validate_json(document))
    return understood
