"""Knowledge records in Redis: written where they changed, journaled before that, and renewed while they are held back.

A record of a user or an item that is no longer produced, or of a space that no release uses any more, is not deleted:
nobody renews it, and it goes when its life and a week of grace are over.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from models.contract.knowledge import FloatArray, KnowledgeRecord, RecordError, Space
from offline.data.catalogue import DataError
from offline.knowledge.vectors import ItemVectors, UserVectors
from offline.publish.connection import Store
from offline.publish.memo import Memo, Remembered, digest
from offline.publish.records import Written, chunks
from offline.publish.undo import Change, Publication

GRACE_SECONDS = 7 * 86_400
"""A stale record stays readable for a week: the service uses it and says so, instead of losing it at once."""

Entry = tuple[int, str, FloatArray, tuple[int, ...]]
"""(position in the log, id, vectors [rows, dim], codes) of one owner."""

_TIMES = struct.Struct("<qq")
_TIMES_AT, _CRC_BYTES = 16, 4
"""Where a packed record says when it was written and when it expires, and its check sum; see the contract's layout."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A record that has to be looked at: whose it is, and what it should be."""

    number: int
    owner: str
    key: str
    blob: bytes
    digest: int


def record_key(store: Store, side: str, owner: str, space: str) -> str:
    return (store.keys.user_knowledge if side == "user" else store.keys.item_knowledge)(owner, space)


def owners(vectors: UserVectors | ItemVectors, ids: Sequence[str], only: Iterable[int] | None = None) -> list[int]:
    """Positions of those whom ``vectors`` may know, or of those of them in ``only``.

    Knowledge may be older than the log, and then knows nobody who came later. DataError if it is of another log.
    """
    held = len(vectors.start) - 1 if isinstance(vectors, UserVectors) else len(vectors.known)
    if held > len(ids):
        raise DataError(f"the knowledge {vectors.space.key} knows {held} {vectors.space.side}s, the log {len(ids)}")
    return list(range(held)) if only is None else sorted({one for one in only if one < held})


def entries(vectors: UserVectors | ItemVectors, ids: Sequence[str], numbers: Iterable[int]) -> Iterator[Entry]:
    """What is published of these owners; nothing of one that nothing is known of."""
    for number in numbers:
        if isinstance(vectors, UserVectors):
            rows = vectors.of_user(number)
            if len(rows):
                yield number, ids[number], rows, vectors.codes_of(number)
        elif vectors.known[number]:
            yield number, ids[number], vectors.published[number : number + 1], vectors.codes_of(number)


def write_knowledge(
    store: Store,
    space: Space,
    entries: Iterable[Entry],
    owners: int,
    ttl_seconds: int,
    memo: Memo,
    undo: Publication | None = None,
) -> Written:
    """Records of one space, for owners at positions below ``owners``. An unchanged record is written again only to
    renew its expiry, once less than half of its life is left. Changes are noted in ``undo`` before they are written."""
    now = int(time.time())
    renew_before, expires_at = now + ttl_seconds // 2, now + ttl_seconds
    result, seen = Written(), memo.of(space.key, owners)
    for chunk in chunks(entries):
        wanted = [_packed(store, space, one, now, expires_at) for one in chunk]
        due = [one for one in wanted if not seen.holds(one.number, one.digest, renew_before)]
        stale, changes = _compared(store, space, due, renew_before, seen)
        result.unchanged += len(wanted) - len(stale)
        if undo is not None:
            undo.note(changes)
        if stale:
            memo.about_to_write()
            pipeline = store.redis.pipeline(transaction=False)
            for one in stale:
                pipeline.set(one.key, one.blob, exat=expires_at + GRACE_SECONDS)
                result.add(one.blob)
            pipeline.execute()
        for one in stale:
            seen.note(one.number, one.digest, expires_at)
    return result


def _packed(store: Store, space: Space, entry: Entry, now: int, expires_at: int) -> _Due:
    number, owner, vectors, codes = entry
    blob = KnowledgeRecord(owner, space.fingerprint, vectors, now, expires_at, codes).pack(space.dtype)
    key = record_key(store, space.side, owner, space.fingerprint)
    return _Due(number, owner, key, blob, digest(content(blob)))


def _compared(
    store: Store, space: Space, due: Sequence[_Due], renew_before: int, seen: Remembered
) -> tuple[list[_Due], list[Change]]:
    """(those to write, because Redis holds something else or holds it for too short; those that change something)."""
    blobs: Any = store.redis.mget([one.key for one in due]) if due else []
    stale, changes = [], []
    for one, old in zip(due, blobs, strict=True):
        held = readable(old, one.owner, space.fingerprint)
        same = held is not None and content(old) == content(one.blob)
        if held is not None and same and held.expires_at >= renew_before:
            seen.note(one.number, one.digest, held.expires_at)
            continue
        stale.append(one)
        if not same:
            changes.append(change(one.key, None if held is None else old, one.blob))
    return stale, changes


def renew_knowledge(store: Store, space: Space, owners: Iterable[str], ttl_seconds: int, memo: Memo) -> Written:
    """Let the records of a space that is held back live on as they are: a record must not expire because of that."""
    now = int(time.time())
    result = Written()
    for chunk in chunks(owners):
        keys = [record_key(store, space.side, owner, space.fingerprint) for owner in chunk]
        held: Any = store.redis.mget(keys)
        pipeline = store.redis.pipeline(transaction=False)
        due = 0
        for owner, key, blob in zip(chunk, keys, held, strict=True):
            record = readable(blob, owner, space.fingerprint)
            if record is None:
                continue
            if record.expires_at >= now + ttl_seconds // 2:
                result.unchanged += 1
                continue
            renewed = restamped(blob, now, now + ttl_seconds)
            pipeline.set(key, renewed, exat=now + ttl_seconds + GRACE_SECONDS)
            result.add(renewed)
            due += 1
        if due:
            memo.about_to_write()
            pipeline.execute()
    return result


def content(blob: bytes) -> bytes:
    """What a packed record says, without when it was written and when it expires."""
    return blob[:_TIMES_AT] + blob[_TIMES_AT + _TIMES.size : -_CRC_BYTES]


def restamped(blob: bytes, written_at: int, expires_at: int) -> bytes:
    """The same record with other times. Unpacking and packing it again could round int8 values a second time."""
    body = blob[:_TIMES_AT] + _TIMES.pack(written_at, expires_at) + blob[_TIMES_AT + _TIMES.size : -_CRC_BYTES]
    return body + struct.pack("<I", zlib.crc32(body))


def times(blob: bytes) -> tuple[int, int]:
    """(when a packed record was written, when it expires), in unix seconds."""
    written_at, expires_at = _TIMES.unpack_from(blob, _TIMES_AT)
    return int(written_at), int(expires_at)


def change(key: str, old: bytes | None, new: bytes) -> Change:
    """What the journal keeps of a record that is about to be replaced. Digests are of contents: a record whose expiry
    is renewed later still counts as the one that was written."""
    return Change(key, old, None if old is None else content_digest(old), content_digest(new))


def content_digest(blob: bytes) -> bytes:
    return digest(content(blob)).to_bytes(8, "little")


def readable(blob: bytes | None, owner: str, space: str) -> KnowledgeRecord | None:
    """The record in ``blob``; None if there is none, or none that may be used."""
    try:
        return None if blob is None else KnowledgeRecord.unpack(blob, owner, space)
    except RecordError:
        return None
