"""All that Redis holds of users, found by their names in one SCAN and in the streams: deleted of those who are
forgotten, or exported."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import redis
from pydantic import BaseModel

from models.contract.events import Interaction, item_hash, names_in
from models.contract.exposures import Exposure
from models.contract.forgetting import EVERYTHING_MS
from models.contract.traces import parsed_entry, readable
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.features import erase_events
from offline.publish.records import chunks, forget
from offline.publish.streams import entries

Removed = Counter[tuple[str, str]]
"""Numbers of records that were removed, by user id and by the store that they were in."""

_STREAMS = ("interactions", "exposures")

_REWRITE_SECONDS = 60.0
"""Longest wait for the append-only file."""

_COPIED, _ATTEMPTS = 1_000, 5
"""Entries that are copied at once, and how often a stream is copied whose entries go meanwhile."""

_COPY = """
local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
for _, entry in ipairs(entries) do redis.call('XADD', KEYS[2], entry[1], unpack(entry[2])) end
redis.call('EXPIRE', KEYS[2], 600)
if #entries == tonumber(ARGV[2]) then return entries[#entries][1] end
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
  redis.call('DEL', KEYS[2])
  return 'replaced'
end
if redis.call('XLEN', KEYS[1]) ~= redis.call('XLEN', KEYS[2]) then return 'changed' end
local info, of = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for at = 1, #info, 2 do of[info[at]] = info[at + 1] end
redis.call('XSETID', KEYS[2], of['last-generated-id'], 'ENTRIESADDED', of['entries-added'],
           'MAXDELETEDID', of['max-deleted-entry-id'])
redis.call('PERSIST', KEYS[2])
redis.call('RENAME', KEYS[2], KEYS[1])
return 'replaced'
"""
"""Copies the next entries of a stream to another key. After the last ones the copy takes the stream's place, unless
entries went meanwhile, which the copy would bring back. The last id that was copied, 'changed' or 'replaced'."""

_SCANNED = 10_000
"""Keys that Redis looks at between two other commands."""


def erase_users(store: Store, until_ms: Mapping[str, int]) -> Removed:
    """Delete what there is of these users until their times (unix ms). Only histories and entries of streams tell
    times; profiles, knowledge, texts and arms go whatever theirs. Safe to repeat."""
    removed = _erase_entries(store, until_ms)
    if not until_ms:
        return removed
    forget(store)
    with Bulk(store.redis) as bulk:
        for chunk in chunks(_keys_of(store, until_ms)):
            others = [(user, tail, key) for user, tail, key in chunk if tail != "history"]
            bulk.delete([key for _, _, key in others])
            removed.update((user, "knowledge" if tail.startswith("k:") else tail) for user, tail, _ in others)
            histories = [(user, key) for user, tail, key in chunk if tail == "history"]
            kinds = bulk.ask([("TYPE", key) for _, key in histories])
            for (user, key), kind in zip(histories, kinds, strict=True):
                if kind not in (b"string", b"none"):  # nobody can tell when it was written
                    bulk.delete([key])
                    removed[user, "history"] += 1
                elif count := erase_events(bulk, {key.decode(): until_ms[user]}):
                    removed[user, "history"] += count
    return removed


def empty(store: Store, prefix: str) -> None:
    """Delete everything under a prefix."""
    for key in store.redis.scan_iter(f"{prefix}:*", count=_SCANNED):
        store.redis.unlink(key)


def user_records(store: Store, user: str, item_ids: Iterable[str]) -> dict[str, Any]:
    """All that Redis holds of a user, readable (``traces``); what ``erase_users`` deletes. Items of the history are
    named that are among ``item_ids``, or in the stream of interactions."""
    everything = {user: EVERYTHING_MS}
    contents: dict[str, list[BaseModel]] = {
        name: [content for _, _, content in _entries_of(store, getattr(store.keys, name), everything)]
        for name in _STREAMS
    }
    keys = [key for _, _, key in _keys_of(store, everything)]
    keys += [store.keys.unit_arms(unit).encode() for unit in own_units(store, everything)]
    values = {key.decode(errors="backslashreplace"): value for key in keys if (value := _value(store, key)) != []}
    streamed = (content.item_id for content in contents["interactions"] if isinstance(content, Interaction))
    names = {item_hash(item): item for item in (*item_ids, *streamed)}
    return readable(user, values, contents, lambda hashes: [names.get(each) for each in hashes.tolist()])


def _value(store: Store, key: bytes) -> Any:
    """What lies under a key: bytes, a list, or for a hash a list of names and values; None of another type."""
    kind: Any = store.redis.type(key)
    value: Any
    match kind:
        case b"string":
            value = store.redis.get(key)
        case b"list":
            value = store.redis.lrange(key, 0, -1)
        case b"hash":
            value = store.redis.hgetall(key)
            value = [cell for pair in value.items() for cell in pair]
        case b"none":  # it has ended meanwhile
            value = []
        case _:
            value = None
    return value


def rewrite_files(store: Store) -> str:
    """Let Redis write its append-only file anew, and its snapshot if it takes some, without what was deleted, and wait
    for them a while; "" once they are, or why they are not."""
    nodes: Any = {"target_nodes": redis.RedisCluster.PRIMARIES} if isinstance(store.redis, redis.RedisCluster) else {}
    try:
        store.redis.bgrewriteaof(**nodes)
        if not _come_to_an_end(store, nodes, "aof_rewrite"):
            return "Redis is still rewriting its append-only file"
        if any(part.get("rdb_saves") for part in _persistence(store, nodes)):
            store.redis.bgsave(**nodes)
            if not _come_to_an_end(store, nodes, "rdb_bgsave"):
                return "Redis is still taking its snapshot"
    except redis.ResponseError as error:
        return f"Redis refuses to write its files anew ({error}): let it, or they hold former states"
    return ""


def _come_to_an_end(store: Store, nodes: Any, work: str) -> bool:
    """Whether this ``work`` of all servers ends within a while."""
    deadline = time.monotonic() + _REWRITE_SECONDS
    while time.monotonic() < deadline:
        parts = _persistence(store, nodes)
        if not any(part.get(f"{work}_in_progress") or part.get(f"{work}_scheduled") for part in parts):
            return True
        time.sleep(0.02)
    return False


def _persistence(store: Store, nodes: Any) -> list[Any]:
    """What each server says of its files."""
    state: Any = store.redis.info("persistence", **nodes)
    return list(state.values()) if nodes and "aof_enabled" not in state else [state]


def rewrite_streams(store: Store) -> str:
    """Write both streams anew, because Redis marks entries as deleted and keeps their bytes; "" once it is done, or why
    it is not. Entries keep their ids, and their counts; whoever adds some meanwhile is not waited for."""
    failures = [
        failure
        for stream in (store.keys.interactions, store.keys.exposures)
        if (failure := _rewrite_stream(store, stream))
    ]
    return "; ".join(failures)


def _rewrite_stream(store: Store, stream: str) -> str:
    copy = f"{stream}:copy:{{{stream}}}"  # in the slot of the stream itself
    try:
        for _ in range(_ATTEMPTS):
            store.redis.delete(copy)
            last: Any = b"0-0"
            while last:
                state: Any = store.redis.eval(_COPY, 2, stream, copy, last, _COPIED)
                if state == b"replaced":
                    return ""
                last = None if state == b"changed" else state
    except redis.ResponseError as error:
        return f"{stream} is not written anew ({error}): bytes of deleted entries stay until it is trimmed"
    finally:
        with suppress(redis.RedisError):
            store.redis.delete(copy)
    return f"{stream} changes too fast to be written anew: bytes of deleted entries stay until it is trimmed"


def own_units(store: Store, users: Mapping[str, int]) -> dict[str, str]:
    """Units other than themselves that these users alone came with, as the stream of exposures tells; users by unit."""
    users_of: dict[str, set[str]] = defaultdict(set)
    for _, fields in entries(store, store.keys.exposures, "0-0"):
        try:
            exposure = Exposure.from_stream(fields)
        except ValueError:
            continue
        users_of[exposure.unit].add(exposure.user_id)
    return {
        unit: user
        for unit, (user, *others) in ((unit, sorted(owners)) for unit, owners in users_of.items())
        if unit and not others and user in users and unit != user
    }


def _erase_entries(store: Store, until_ms: Mapping[str, int]) -> Removed:
    """The entries of both streams, and the arms of units that only these users came with."""
    removed = Removed()
    arms = own_units(store, until_ms)
    for unit, user in arms.items():
        deleted: Any = store.redis.delete(store.keys.unit_arms(unit))
        if deleted:
            removed[user, "arms"] += deleted
    for name in _STREAMS:
        stream = getattr(store.keys, name)
        for chunk in chunks(_entries_of(store, stream, until_ms)):
            store.redis.xdel(stream, *(entry for _, entry, _ in chunk))
            removed.update((user, name) for user, _, _ in chunk)
    return removed


def _entries_of(store: Store, stream: str, until_ms: Mapping[str, int]) -> Iterator[tuple[str, str, BaseModel]]:
    """(user, entry, content) of those of a stream that are of these users. One that nobody understands is of whom its
    JSON names, or, if it is none, of anybody whose id stands in it."""
    for entry, fields in entries(store, stream, "0-0"):
        content = parsed_entry(stream.rpartition(":")[2], fields)
        if isinstance(content, Interaction):
            users, happened_ms = {content.user_id}, content.time_ms
        elif isinstance(content, Exposure):
            users, happened_ms = {content.user_id, content.unit}, content.time_ms
        else:
            users, happened_ms = _mentioned(fields.values(), until_ms), -1
        time_ms = min(happened_ms, int(entry.partition("-")[0]))  # clocks of callers run ahead
        for user in users & until_ms.keys():
            if time_ms <= until_ms[user]:
                yield user, entry, content
                break


def _mentioned(values: Collection[bytes], users: Collection[str]) -> set[str]:
    """Whom the values of an entry are about that nobody understands: those whom their JSON names, or, if they are none,
    anybody whose id stands in them."""
    if (names := names_in(values)) is not None:
        return set(names)
    text = b" ".join(values)
    return {user for user in users if json.dumps(user, ensure_ascii=False).encode() in text}


def _keys_of(store: Store, users: Collection[str]) -> Iterator[tuple[str, str, bytes]]:
    """(user, what follows the hash tag, key) of the keys that are named after these users. One whose tag is no text is
    named after nobody, and may be somebody else's: it is left, and said."""
    owners = {_escaped_tag(store, user): user for user in users}
    for key in store.redis.scan_iter(match=f"{_prefix(store)}*", count=_SCANNED):
        tag, tail = _parted(key)
        if tag in owners:
            yield owners[tag], tail, key
        elif any("\udc80" <= character <= "\udcff" for character in tag):
            print(f"  warning: nobody can tell whose {str(key)[2:-1]} is: it is left alone", flush=True)


def _prefix(store: Store) -> str:
    return store.keys.user_profile("").partition("{u:")[0] + "{u:"


def _escaped_tag(store: Store, user: str) -> str:
    """What stands in the hash tag of a user's keys."""
    return store.keys.user_profile(user)[len(_prefix(store)) :].partition("}")[0]


def _parted(key: bytes) -> tuple[str, str]:
    """(what stands in the hash tag, what follows it)."""
    tag, _, tail = key.decode(errors="surrogateescape").partition("{u:")[2].partition("}:")
    return tag, tail
