"""All that Redis holds of a user: looked for, deleted, and told.

Keys are found by their names, with those of knowledge in every space that ever was; entries of the streams by reading
the streams, a page at a time, so that neither Redis nor the event loop is busy for long.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from pydantic_core import to_json

from models.contract.artifact import ReleaseManifest
from models.contract.events import EVENT_BYTES, Interaction, unpack_history
from models.contract.exposures import Exposure
from models.contract.items import ItemTable
from models.contract.keys import Keys
from models.contract.knowledge import KnowledgeRecord, RecordError
from models.contract.traces import UnreadEntry, parsed_entry, readable, store_of
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis import RedisPort, replies_to
from service.redis_connection import Command


class _Shown(msgspec.Struct):
    """Of an exposure, who was shown something and who was split."""

    user_id: str
    unit: str


_SHOWN = msgspec.json.Decoder(_Shown)

ENTRIES_AT_ONCE = 500
"""Entries of a stream that are read at once: some 200 kB."""

TRIP_SECONDS = 5.0
"""Longest duration of one round trip."""

ERASE = f"""
local size, until_ms, history = {EVENT_BYTES}, tonumber(ARGV[1]), redis.call('GET', KEYS[1])
if not history then return 0 end
local later = {{}}
for at = 1, #history - size + 1, size do
  if struct.unpack('<i8', string.sub(history, at + 8, at + 15)) > until_ms then
    later[#later + 1] = string.sub(history, at, at + size - 1)
  end
end
if #later == 0 then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], table.concat(later), 'KEEPTTL') end
return math.ceil(#history / size) - #later
"""
"""Removes the events until a time from a history; the number of those that went. A tail that is not whole goes."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What was found of a user until a time.

    values   what lies under each key: bytes, a list, or for a hash a list of names and values; None of another type
    entries  ids and contents of stream entries, by the key of the stream
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, BaseModel]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values) or any(self.entries.values())


@dataclass(frozen=True, slots=True)
class UserTraces:
    """Looks for users in the Redis of a service, and deletes them. RedisUnavailable from every method without it."""

    link: RedisPort
    keys: Keys

    async def find(self, user_id: str, until_ms: int, *, timed: bool = False) -> Traces:
        """What is stored of a user that is not later than a time. Knowledge counts whatever its time, unless only what
        is ``timed`` is looked for: it may be made of older interactions. Profile, texts and arms have no time."""
        entries = {
            self.keys.interactions: await self._entries(self.keys.interactions, user_id, until_ms),
            self.keys.exposures: await self._entries(self.keys.exposures, user_id, until_ms),
        }
        values: dict[str, Any] = {}
        history, others = self.keys.user_history(user_id), await self._keys_of(user_id)
        units = await self._own_units(user_id, entries[self.keys.exposures].values())
        arms = [self.keys.unit_arms(unit) for unit in (user_id, *units)]
        served, counts = self.keys.user_served(user_id), self.keys.user_event_counts(user_id)
        commands: list[Command] = [("GET", key) for key in (history, *others)]
        commands += [("LRANGE", served, 0, -1), *(("HGETALL", key) for key in (counts, *arms))]
        replies = await self.link.round_trip(commands, Deadline(TRIP_SECONDS))
        for key, reply in zip((history, *others, served, counts, *arms), replies, strict=True):
            if isinstance(reply, Exception):
                if not str(reply).startswith("WRONGTYPE"):
                    raise RedisUnavailable(f"{type(reply).__name__}: {reply}") from reply
                values[key] = None  # it is there, and nobody can read it
            elif key == history and reply:
                if len(reply) % EVENT_BYTES or (unpack_history(user_id, reply)[0]["time_ms"] <= until_ms).any():
                    values[key] = reply
            elif reply and not (timed and _is_later(key, reply, user_id, until_ms)):
                values[key] = reply
        return Traces(values, entries)

    async def delete(self, user_id: str, until_ms: int, traces: Traces) -> Counter[str]:
        """Delete what was found; numbers of what went, by the store that it was in."""
        history = self.keys.user_history(user_id)
        removed = Counter[str]()
        in_parts = traces.values.get(history, b"") is not None
        values: list[tuple[str, Command]] = [("history", ("EVAL", ERASE, 1, history, until_ms))] if in_parts else []
        values += [(store_of(key), ("DEL", key)) for key in traces.values if not in_parts or key != history]
        entries: list[tuple[str, Command]] = []
        for stream, of_stream in traces.entries.items():
            name, ids = stream.rpartition(":")[2], list(of_stream)
            parts = [ids[at : at + ENTRIES_AT_ONCE] for at in range(0, len(ids), ENTRIES_AT_ONCE)]
            entries += [(name, ("XDEL", stream, *part)) for part in parts]
        # Entries last: if something fails before, they still tell which units are the user's own.
        for step in (values, entries):
            for (store, _), count in zip(step, await self._ask([command for _, command in step]), strict=True):
                removed[store] += int(count)
        return +removed

    def document(self, traces: Traces, user_id: str, table: ItemTable | None) -> dict[str, Any]:
        """What was found, for people: items of a history by their ids, where the catalogue ``table`` knows them."""
        entries = {stream.rpartition(":")[2]: of_stream.values() for stream, of_stream in traces.entries.items()}

        def item_names(hashes: npt.NDArray[np.uint64]) -> list[str | None]:
            rows = np.zeros(len(hashes), np.int64) if table is None else table.rows_of_hashes(hashes)
            return [None if table is None or row == 0 else table.ids[row] for row in rows.tolist()]

        return readable(user_id, traces.values, entries, item_names)

    async def _keys_of(self, user_id: str) -> list[str]:
        """Keys of what is stored of a user as one value, besides the history."""
        members, releases, live = await self._ask(
            [("SMEMBERS", self.keys.user_spaces), ("GET", self.keys.releases), ("GET", self.keys.live)]
        )
        spaces = {space.decode() for space in members}
        names = [] if live is None else [live.decode()]
        with suppress(ValueError, RecursionError):  # damaged, which whoever publishes finds out
            names += [name for name in json.loads(releases or "[]") if isinstance(name, str)]
        manifests = await self._ask([("GET", self.keys.release_manifest(name)) for name in names])
        for manifest in filter(None, manifests):
            spaces |= _user_spaces(manifest)
        knowledge = [self.keys.user_knowledge(user_id, space) for space in sorted(spaces)]
        others = (self.keys.user_profile, self.keys.user_texts, self.keys.user_export)
        return [*(key(user_id) for key in others), *knowledge]

    async def _own_units(self, user_id: str, exposures: Collection[BaseModel]) -> list[str]:
        """Units other than the user that nobody else came with, as far as the stream of exposures tells."""
        units = {entry.unit for entry in exposures if isinstance(entry, Exposure)} - {user_id, ""}
        if units:
            async for _, cells in self._pages(self.keys.exposures):
                for cell in cells[1::2]:
                    with suppress(ValueError, RecursionError):  # of what is no JSON, or nested without end
                        shown = _SHOWN.decode(cell)
                        if shown.user_id != user_id:
                            units.discard(shown.unit)
        return sorted(units)

    async def _entries(self, stream: str, user_id: str, until_ms: int) -> dict[str, BaseModel]:
        return {
            number: entry
            async for number, entry in self._mentions(stream, user_id)
            if _is_of(entry, user_id, until_ms, arrived_ms=int(number.partition("-")[0]))
        }

    async def _mentions(self, stream: str, text: str) -> AsyncIterator[tuple[str, BaseModel]]:
        """(id, content) of the entries that have a text as a value."""
        quoted, name = to_json(text), stream.rpartition(":")[2]
        async for number, cells in self._pages(stream):
            if any(quoted in cell for cell in cells):
                yield number.decode(), parsed_entry(name, dict(zip(cells[::2], cells[1::2], strict=True)))

    async def _pages(self, stream: str) -> AsyncIterator[tuple[bytes, list[bytes]]]:
        """(id, names and values) of all entries of a stream. Others have their turn between two pages."""
        first = "-"
        while True:
            (page,) = await self._ask([("XRANGE", stream, first, "+", "COUNT", ENTRIES_AT_ONCE)])
            for number, cells in page:
                yield number, cells
            if len(page) < ENTRIES_AT_ONCE:
                return
            first = f"({page[-1][0].decode()}"
            await asyncio.sleep(0)

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        return await replies_to(self.link, commands, Deadline(TRIP_SECONDS)) if commands else []


def _is_of(entry: BaseModel, user_id: str, until_ms: int, arrived_ms: int) -> bool:
    """Whether an entry that mentions a user is about them, and happened or arrived until a time."""
    if isinstance(entry, UnreadEntry):
        return entry.names is None or user_id in entry.names
    if isinstance(entry, Exposure):
        return user_id in (entry.user_id, entry.unit) and min(entry.time_ms, arrived_ms) <= until_ms
    return isinstance(entry, Interaction) and entry.user_id == user_id and min(entry.time_ms, arrived_ms) <= until_ms


def _user_spaces(manifest: bytes) -> set[str]:
    try:
        spaces = ReleaseManifest.model_validate_json(manifest).spaces
    except ValueError:
        return set()
    return {fingerprint for key, fingerprint in spaces.items() if key.startswith("user/")}


def _is_later(key: str, blob: Any, user_id: str, until_ms: int) -> bool:
    """Whether a record was made after a time, or could have been."""
    space = key.partition("}:k:")[2]
    try:
        return not space or KnowledgeRecord.unpack(blob, user_id, space).written_at * 1000 > until_ms
    except RecordError:
        return False
