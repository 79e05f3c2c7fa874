"""Features of users and items, as the service reads them: profiles and live histories; a release's item features."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray, IntArray
from models.contract.bulk import item_rows
from models.contract.events import EVENT_BYTES, EVENT_DTYPE, item_hash, owner_tag
from models.contract.keys import of_each
from models.contract.packing import ITEM, item_contents
from models.contract.profile import packed_profile
from models.contract.schema import FeatureSchema
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog, UserIndex
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.records import ItemChanges, WriteCache, Written, chunks, record_digests
from offline.publish.tombstones import TombstoneWatch

REPLACE_IF_UNCHANGED = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end
return 1
"""
"""Replaces a history while it is what was read; an empty one is no key. Its end stays."""

_DAY_SECONDS = 86_400


def write_profiles(
    store: Store,
    catalogue: Catalogue,
    log: InteractionLog,
    write_cache: WriteCache,
    users: Collection[int] | None = None,
    watch: TombstoneWatch | None = None,
    ends: IntArray | None = None,
) -> Written:
    """Profiles that changed, of all users of the log or of those at the positions ``users``. Each ends in Redis at its
    user's ``ends`` [users] (unix s), if that is given, and is not written after it."""
    result, seen = Written(), write_cache.of("user profiles", len(log.user_ids))
    with Bulk(store.redis) as bulk:
        for chunk in chunks(_positions(log, users, watch, ends)):
            names = [log.user_ids[user] for user in chunk]
            blobs = [packed_profile(name, catalogue.users.get(name, {})) for name in names]
            digests = record_digests(blobs if ends is None else _with_ends(blobs, ends[chunk]))
            due = np.flatnonzero(~seen.holds(chunk, digests)).tolist()
            keys = of_each(store.keys.user_profile, [names[at] for at in due])
            stored = zip(keys, due, bulk.get(keys), strict=True)
            changed = [(key, at) for key, at, blob in stored if ends is not None or blob != blobs[at]]
            result.unchanged += len(chunk) - len(changed)
            if changed:
                write_cache.about_to_write()
                until = None if ends is None else ends[[chunk[at] for _, at in changed]].tolist()
                bulk.set([key for key, _ in changed], [blobs[at] for _, at in changed], until)
                if watch is not None:
                    bulk.delete([changed[place][0] for place in watch.look([names[at] for _, at in changed])])
                result.add(*(blobs[at] for _, at in changed))
            # Before the replies: notes count only after ``save``, which nobody calls if one of them is a refusal.
            seen.note([chunk[at] for at in due], digests[due])
    return result


def write_histories(
    store: Store,
    log: InteractionLog,
    max_events: int,
    write_cache: WriteCache,
    users: Collection[int] | None = None,
    watch: TombstoneWatch | None = None,
    ends: IntArray | None = None,
) -> Written:
    """Live histories that lack events of the log, because they are new, or because feedback came before them, and those
    that are longer than ``max_events``, which was lowered; of all users of the log or of those at ``users``. Each ends
    in Redis at its user's ``ends`` [users] (unix s), if that is given, unless the service gave it a later end.

    A history belongs to the service, which may append to it at any moment. It is therefore replaced only while it is
    what was read, and keeps the events that the log does not know yet, where they came.
    """
    index, most = log.by_user(), max_events * EVENT_BYTES
    hashes = np.fromiter((item_hash(item) for item in log.item_ids), np.uint64, len(log.item_ids))
    result, seen = Written(), write_cache.of("user histories", len(log.user_ids))
    with Bulk(store.redis) as bulk:
        for chunk in chunks(_positions(log, users, watch, ends)):
            names = [log.user_ids[user] for user in chunk]
            known = packed_histories(log, index, hashes, chunk, max_events)
            contents = [b"\0".join((name.encode(), blob)) for name, blob in zip(names, known, strict=True)]
            digests = record_digests(contents if ends is None else _with_ends(contents, ends[chunk]))
            due = np.flatnonzero(~seen.holds(chunk, digests)).tolist()
            keys = of_each(store.keys.user_history, [names[at] for at in due])
            lengths = bulk.lengths(keys)
            lacking = [at for at, length in zip(due, lengths, strict=True) if not len(known[at]) <= length <= most]
            whole = packed_histories(log, index, hashes, [chunk[at] for at in lacking], len(log))
            to_write = list(zip(of_each(store.keys.user_history, [names[at] for at in lacking]), whole, strict=True))
            if to_write:
                write_cache.about_to_write()
            left = _complete(bulk, to_write, max_events)
            if ends is not None:
                times = [str(1000 * int(ends[chunk[at]])) for at in due]
                # NX where the history had no end, GT where the service gave it one
                bulk.ask([("PEXPIREAT", key, time_ms, how) for key, time_ms in zip(keys, times, strict=True)
                          for how in ("NX", "GT")])  # fmt: skip
            if watch is not None and lacking:
                forgotten = [names[lacking[place]] for place in watch.look([names[at] for at in lacking])]
                erase_events(bulk, {store.keys.user_history(name): watch.until_ms(name) for name in forgotten})
            written = [blob[-most:] for key, blob in to_write if key not in left]
            result.add(*written)
            result.unchanged += len(chunk) - len(written)
            complete = [at for key, at in zip(keys, due, strict=True) if key not in left]
            seen.note([chunk[at] for at in complete], digests[complete])
    return result


def record_ends(log: InteractionLog, days: float | None) -> IntArray | None:
    """Unix s [users]: so many days after each user's last interaction; 0 of users without any, None without days."""
    if days is None:
        return None
    last = np.zeros(len(log.user_ids), np.int64)
    rows = log.observed
    np.maximum.at(last, log.user[rows], log.time_ms[rows])
    return np.where(last > 0, last // 1000 + round(days * _DAY_SECONDS), 0)


def erase_events(bulk: Bulk, until_ms: Mapping[str, int]) -> int:
    """Remove the events until a time from the histories under these keys, as often as it takes; how many went. A tail
    that is not whole goes with them."""
    removed, left = 0, dict(until_ms)
    while left:
        keys = list(left)
        stored = [blob or b"" for blob in bulk.get(keys)]
        later = [_later(blob, left[key]) for key, blob in zip(keys, stored, strict=True)]
        changed = [at for at in range(len(keys)) if stored[at] != later[at]]
        replies = bulk.ask([("EVAL", REPLACE_IF_UNCHANGED, 1, keys[at], stored[at], later[at]) for at in changed])
        removed += sum(
            (len(stored[at]) - len(later[at])) // EVENT_BYTES for at, done in zip(changed, replies, strict=True) if done
        )
        left = {keys[at]: left[keys[at]] for at, done in zip(changed, replies, strict=True) if not done}
    return removed


def _later(blob: bytes, until_ms: int) -> bytes:
    whole = np.frombuffer(blob[: len(blob) - len(blob) % EVENT_BYTES], EVENT_DTYPE)
    return whole[whole["time_ms"] > until_ms].tobytes()


def _positions(
    log: InteractionLog, users: Collection[int] | None, watch: TombstoneWatch | None, ends: IntArray | None
) -> Sequence[int]:
    """Positions of the users whose records may be written."""
    chosen: Sequence[int] = range(len(log.user_ids)) if users is None else sorted(set(users))
    if ends is not None:
        now = int(time.time())
        chosen = [user for user in chosen if ends[user] > now]
    return chosen if watch is None else watch.allowed(log.user_ids, chosen)


def _with_ends(contents: Sequence[bytes], ends: IntArray) -> list[bytes]:
    """Contents with the end that their records get, so that another end is another content."""
    return [content + end.to_bytes(8, "little") for content, end in zip(contents, ends.tolist(), strict=True)]


def _complete(bulk: Bulk, histories: Sequence[tuple[str, bytes]], max_events: int) -> set[str]:
    """Give each key the last ``max_events`` of all events that the log has of its user, and of those that the stored
    history holds. Returns the keys whose history changed meanwhile: the next refresh tries again."""
    most = max_events * EVENT_BYTES
    was_set = bulk.set_new([key for key, _ in histories], [logged[-most:] for _, logged in histories])
    there = [entry for entry, done in zip(histories, was_set, strict=True) if not done]
    replacing: list[tuple[str | int | bytes, ...]] = []
    for (key, logged), reply in zip(there, bulk.get([key for key, _ in there]), strict=True):
        stored = reply or b""
        joined = stored if len(stored) > most else _joined(_events(logged), _events(stored))
        replacing.append(("EVAL", REPLACE_IF_UNCHANGED, 1, key, stored, joined[-most:]))
    return {key for (key, _), done in zip(there, bulk.ask(replacing), strict=True) if not done}


def _joined(logged: Sequence[bytes], stored: Sequence[bytes]) -> bytes:
    """Events of the log and those of a live history that it does not know, oldest first: each of these comes before
    the logged ones that followed it in the history, so that an early one never counts as the newest."""
    position = {event: at for at, event in enumerate(logged)}
    before: dict[int, list[bytes]] = {}
    follows = len(logged)
    for event in reversed(stored):
        if event in position:
            follows = min(follows, position[event])
        else:
            before.setdefault(follows, []).append(event)
    joined: list[bytes] = []
    for at, event in enumerate(logged):
        joined += before.get(at, [])[::-1]
        joined.append(event)
    return b"".join(joined + before.get(len(logged), [])[::-1])


def _events(blob: bytes) -> list[bytes]:
    return [blob[at : at + EVENT_BYTES] for at in range(0, len(blob) - EVENT_BYTES + 1, EVENT_BYTES)]


def packed_histories(
    log: InteractionLog, index: UserIndex, hashes: npt.NDArray[np.uint64], users: Sequence[int], max_events: int
) -> list[bytes]:
    """Each user's last ``max_events`` log rows as the live history holds them; ``hashes`` [items] name the items."""
    of = np.array(users, np.int64)
    counts = np.minimum(index.start[of + 1] - index.start[of], max_events)
    ends = np.cumsum(counts)
    rows = index.rows[np.repeat(index.start[of + 1] - ends, counts) + np.arange(int(counts.sum()))]
    events = np.zeros(len(rows), EVENT_DTYPE)
    events["item"] = hashes[log.item[rows]]
    events["time_ms"] = log.time_ms[rows]
    events["owner"] = np.repeat(np.array([owner_tag(log.user_ids[user]) for user in users], np.uint32), counts)
    events["value"] = log.value[rows]
    packed = events.tobytes()
    starts = (ends - counts) * EVENT_BYTES
    return [packed[start:end] for start, end in zip(starts.tolist(), (ends * EVENT_BYTES).tolist(), strict=True)]


def write_items(
    store: Store,
    release: str,
    schema: FeatureSchema,
    catalogue: Catalogue,
    item_ids: Sequence[str],
    index: Sequence[int] | None,
    numeric: FloatArray,
) -> Written:
    """Feature records of all items of a release. ``index`` holds the rows of the model's id embedding; None keeps those
    of the records that are there, for a release whose training is not at hand."""
    if not len(item_ids) == len(numeric) == len(item_ids if index is None else index):
        raise ValueError(f"{len(item_ids)} items, but numeric features of {len(numeric)} or not a row of each")
    if numeric.shape[1] != schema.item_numbers:
        raise ValueError(f"items have {schema.item_numbers} numeric features in this schema, not {numeric.shape[1]}")
    categorical = schema.encode_each_item([catalogue.items.get(item, {}) for item in item_ids])
    now = int(time.time())
    result, changes = Written(), ItemChanges(store, release)
    with Bulk(store.redis) as bulk:
        for chunk in chunks(range(len(item_ids))):
            at = slice(chunk[0], chunk[-1] + 1)
            names = item_ids[at]
            keys = of_each(lambda item: store.keys.item_features(item, release), names)
            blobs = bulk.get(keys)
            rows = _stored_rows(blobs, names, schema) if index is None else np.array(index[at], np.int64)
            contents = item_contents(schema.fingerprint, names, rows, categorical[at], numeric[at])
            stale = [
                (key, name, content)
                for key, name, content, blob in zip(keys, names, contents, blobs, strict=True)
                if blob is None or not ITEM.says(blob, content)
            ]
            result.unchanged += len(names) - len(stale)
            written = ITEM.sealed([content for _, _, content in stale], now)
            changes.about_to_write([name for _, name, _ in stale])
            bulk.set([key for key, _, _ in stale], written)
            result.add(*written)
    return result


def stored_embedding_rows(store: Store, release: str, schema: FeatureSchema, item_ids: Sequence[str]) -> IntArray:
    """The row [items] of each item in the id embedding of a release's model, as its feature records have it; 0 where
    there is no record of this schema."""
    parts = [np.zeros(0, np.int64)]
    with Bulk(store.redis) as bulk:
        for chunk in chunks(item_ids):
            blobs = bulk.get(of_each(lambda item: store.keys.item_features(item, release), chunk))
            parts.append(_stored_rows(blobs, chunk, schema))
    return np.concatenate(parts)


def _stored_rows(blobs: Sequence[bytes | None], names: Sequence[str], schema: FeatureSchema) -> IntArray:
    """The row of the id embedding in each record that is there, 0 where there is none that may be used."""
    decoded = item_rows(blobs, names, schema)
    rows = np.zeros(len(names), np.int64)
    rows[decoded.at] = decoded.index
    return rows
