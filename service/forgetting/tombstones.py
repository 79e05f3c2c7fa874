"""The tombstones as this worker knows them: a copy that follows their revision.

What changed since the copy's revision is read; all are read, and understood in a thread, when that cannot be told: at
the start, and after a Redis that lost something or very many changes at once. Who has a tombstone that is damaged, or
of a later version, counts as opted out.

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
    is_salt,
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
  local is_json, tombstone = pcall(cjson.decode, former)
  local is_understood = is_json and type(tombstone) == 'table' and (tombstone.v or 1) == 1
    and type(tombstone.forgotten_ms) == 'number' and type(tombstone.opted_out or false) == 'boolean'
  if not is_understood then tombstone = {forgotten_ms = 0, opted_out = true} end
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
"""Joins a tombstone with the one there is: no worker knows for sure what others wrote a moment ago. In place of one
that is not understood comes one that is, of somebody who opted out unless it is said otherwise."""

SALTED = f"""
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('HSET', KEYS[1], '{SALT}', ARGV[1]) end
return redis.call('HGET', KEYS[1], '{SALT}')
"""
"""The salt, which the first tombstone brings: a second one would hide all that were written under the first."""

log = logging.getLogger(__name__)


class KnownTombstones:
    """``current`` is the copy. ``unreadable`` says why the tombstones in Redis cannot be told, "" if they can: until
    then nothing of any user may be written."""

    def __init__(self, link: RedisPort, keys: Keys, poll_seconds: float) -> None:
        self._link, self._keys, self.poll_seconds = link, keys, poll_seconds
        self.current = Tombstones()
        self.unreadable = "the tombstones have not been read yet"
        self._failure = ""
        self._reading = asyncio.Lock()

    @property
    def error(self) -> str:
        """Why the copy may be old, or that something in it is not understood; "" if nothing is wrong."""
        number = len(self.current.not_understood)
        words = f"{number} not understood: damaged, or of a later version; whom they are about counts as opted out"
        return self._failure or (words if number else "")

    @property
    def look(self) -> Command:
        """The command whose reply ``are_others`` reads."""
        return ("HGET", self._keys.tombstones, REVISION)

    @staticmethod
    def are_others(reply: Any, judged: Tombstones) -> bool:
        """Whether the reply to ``look`` may be of other tombstones than those that somebody ``judged`` by."""
        try:
            return isinstance(reply, Exception) or int(reply or 0) != judged.revision
        except ValueError:
            return True  # damaged, which whoever reads the tombstones finds out

    async def refresh(self) -> None:
        """Read the tombstones again if there are other ones. Never raises on bad data or without Redis."""
        try:
            (revision,) = await replies_to(self._link, [self.look], Deadline(READ_SECONDS))
            if self.unreadable or self.are_others(revision, self.current):
                await self.read()
            self._failure = ""
        except (RedisUnavailable, ValueError) as error:
            self._failure = str(error)

    async def read(self) -> None:
        """Read what others wrote since. RedisUnavailable; ValueError if the tombstones are ``unreadable``."""
        async with self._reading:  # a slow reader would put its copy in place of a newer one
            former = self.current
            try:
                self.current = await self._read(former)
            except ValueError as error:
                if self.unreadable != str(error):
                    log.error("tombstones cannot be read, and nothing of users is written: %s", error)
                self.unreadable = str(error)
                raise
            self.unreadable = ""
            if number := len(self.current.not_understood - former.not_understood):
                log.error("%d tombstones are not understood: whom they are about counts as opted out", number)

    async def _read(self, former: Tombstones) -> Tombstones:
        key = self._keys.tombstones
        changes: Command = ("EVAL", READ_CHANGES, 1, key, former.revision)
        # Who waited for somebody else's reading has the revision that is there by now, and is told so.
        (cells,) = await replies_to(self._link, [changes], Deadline(READ_SECONDS))
        if cells is not None:
            return Tombstones.parse(_fields(cells), former, strict=False)
        (cells,) = await replies_to(self._link, [("HGETALL", key)], Deadline(READ_ALL_SECONDS))
        return await asyncio.to_thread(Tombstones.parse, _fields(cells), strict=False)

    async def write(self, user_id: str, forgotten_ms: int, opted_out: bool | None = None) -> Tombstone:
        """Write the tombstone of a user, and know it; it. A later time that is there already stays, and so does whether
        the user opted out, unless ``opted_out`` says. RedisUnavailable."""
        key = self._keys.tombstones
        salted: Command = ("EVAL", SALTED, 1, key, new_salt())
        (salt,) = await replies_to(self._link, [salted], Deadline(READ_SECONDS))
        if not is_salt(text := (salt or b"").decode(errors="replace")):
            raise RedisUnavailable(f"the salt of {key} is damaged or gone: put back a copy of that hash")
        out = {None: "", True: "true", False: "false"}[opted_out]
        write: Command = ("EVAL", WRITE, 1, key, user_digest(text, user_id), new_revision(), forgotten_ms, out)
        (written,) = await replies_to(self._link, [write], Deadline(READ_SECONDS))
        await self.read()
        return Tombstone.model_validate_json(written)


def _fields(cells: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Fields and values, which are taken out of the reply: to free millions at once would stop the event loop."""
    while cells:
        value = cells.pop()
        yield cells.pop(), value
