"""The tombstones as this worker knows them: a copy that follows their revision.

What changed since the copy's revision is read; all are read, and understood in a thread, when that cannot be told: at
the start, and after a Redis that lost something or very many changes at once.

A rank request asks the copy alone. What writes to Redis looks at the revision after its write, so that it learns of a
user who was forgotten meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from models.contract.forgetting import (
    NOTE,
    READ_CHANGES,
    REVISION,
    SALT,
    Tombstone,
    Tombstones,
    new_revision,
    new_salt,
    user_digest,
)
from models.contract.keys import Keys
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis import RedisPort, replies_to
from service.redis_connection import Command

READ_SECONDS, READ_ALL_SECONDS = 2.0, 30.0
"""Longest duration of one read, and of one of all tombstones."""

WRITE = (
    NOTE
    + """
local until_ms, opted_out = tonumber(ARGV[3]), ARGV[4]
local former = redis.call('HGET', KEYS[1], ARGV[1])
if former then
  local tombstone = cjson.decode(former)
  -- One that says something else has to be the later of the two, whatever the clocks.
  local least_ms = tombstone.forgotten_ms + (opted_out == '' and 0 or 1)
  until_ms = math.max(until_ms, least_ms)
  if opted_out == '' then opted_out = tostring(tombstone.opted_out or false) end
end
if opted_out == '' then opted_out = 'false' end
local written = '{"v":1,"forgotten_ms":' .. string.format('%.0f', until_ms) .. ',"opted_out":' .. opted_out .. '}'
redis.call('HSET', KEYS[1], ARGV[1], written)
note(ARGV[2], {ARGV[1]})
return written
"""
)
"""Joins a tombstone with the one there is: no worker knows for sure what others wrote a moment ago."""

log = logging.getLogger(__name__)


class KnownTombstones:
    """``current`` is the copy; ``error`` says why it may be old."""

    def __init__(self, link: RedisPort, keys: Keys, poll_seconds: float) -> None:
        self._link, self._keys, self.poll_seconds = link, keys, poll_seconds
        self.current = Tombstones()
        self.error = ""
        self._reading = asyncio.Lock()

    @property
    def look(self) -> Command:
        """The command whose reply ``are_others`` reads."""
        return ("HGET", self._keys.tombstones, REVISION)

    @staticmethod
    def are_others(reply: Any, judged: Tombstones) -> bool:
        """Whether the reply to ``look`` is of other tombstones than those that somebody ``judged`` by. Not, if Redis
        refused it."""
        return not isinstance(reply, Exception) and int(reply or 0) != judged.revision

    async def watch(self) -> None:
        """Follow the tombstones until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self.poll_seconds)

    async def refresh(self) -> None:
        """Read the tombstones again if there are other ones. Never raises on bad data or without Redis."""
        try:
            (revision,) = await replies_to(self._link, [self.look], Deadline(READ_SECONDS))
            if self.are_others(revision, self.current):
                await self.read()
            self.error = ""
        except (RedisUnavailable, ValueError) as error:
            if not self.error and not isinstance(error, RedisUnavailable):
                log.error("tombstones cannot be read: %s", error)
            self.error = str(error)

    async def read(self) -> None:
        """Read what others wrote since. RedisUnavailable; ValueError if a tombstone is not understood."""
        async with self._reading:  # a slow reader would put its copy in place of a newer one
            key, current = self._keys.tombstones, self.current
            changes: Command = ("EVAL", READ_CHANGES, 1, key, current.revision)
            (cells,) = await replies_to(self._link, [changes], Deadline(READ_SECONDS))
            if cells is not None:
                self.current = Tombstones.parse(_fields(cells), current)
                return
            (cells,) = await replies_to(self._link, [("HGETALL", key)], Deadline(READ_ALL_SECONDS))
            self.current = await asyncio.to_thread(Tombstones.parse, _fields(cells))

    async def write(self, user_id: str, forgotten_ms: int, opted_out: bool | None = None) -> Tombstone:
        """Write the tombstone of a user, and know it; it. A later time that is there already stays, and so does whether
        the user opted out, unless ``opted_out`` says. RedisUnavailable."""
        key = self._keys.tombstones
        salted: list[Command] = [("HSETNX", key, SALT, new_salt()), ("HGET", key, SALT)]
        _, salt = await replies_to(self._link, salted, Deadline(READ_SECONDS))
        digest = user_digest(salt.decode(), user_id)
        out = {None: "", True: "true", False: "false"}[opted_out]
        write: Command = ("EVAL", WRITE, 1, key, digest, new_revision(), forgotten_ms, out)
        (written,) = await replies_to(self._link, [write], Deadline(READ_SECONDS))
        await self.read()
        return Tombstone.model_validate_json(written)


def _fields(cells: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Fields and values, which are taken out of the reply: to free millions at once would stop the event loop."""
    while cells:
        value = cells.pop()
        yield cells.pop(), value
