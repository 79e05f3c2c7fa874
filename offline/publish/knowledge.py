"""Knowledge records in Redis: written where they changed, journaled before that, and renewed while they are held back.

A record of a user or an item that is no longer produced, or of a space that no release uses any more, is not deleted:
nobody renews it, and it goes when its life and a week of grace are over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.contract.keys import of_each
from models.contract.knowledge import KnowledgeRecord, RecordError, Space, check
from models.contract.packing import KNOWLEDGE, knowledge_contents
from offline.publish.bulk import Bulk
from offline.publish.changes import ItemChanges
from offline.publish.connection import Store
from offline.publish.entries import Entries
from offline.publish.memo import Memo, Remembered, digest, digests
from offline.publish.records import Written, chunks, fills_a_chunk
from offline.publish.undo import Change, Publication

GRACE_SECONDS = 7 * 86_400
"""A stale record stays readable for a week: the service uses it and says so, instead of losing it at once."""


@dataclass(slots=True)
class _Due:
    """Records that have to be looked at: positions and names of their owners, what they should say, and its digests."""

    numbers: list[int] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class _Life:
    """When records are written, when they then expire, and until when (all unix s) one must live to be left alone."""

    now: int
    expires_at: int
    renew_before: int

    @classmethod
    def of(cls, ttl_seconds: int) -> _Life:
        now = int(time.time())
        return cls(now, now + ttl_seconds, now + ttl_seconds // 2)


def record_key(store: Store, side: str, owner: str, space: str) -> str:
    return (store.keys.user_knowledge if side == "user" else store.keys.item_knowledge)(owner, space)


def _record_keys(store: Store, space: Space, owners: Sequence[str]) -> list[str]:
    return of_each(lambda owner: record_key(store, space.side, owner, space.fingerprint), owners)


def write_knowledge(
    store: Store,
    space: Space,
    entries: Iterable[Entries],
    owners: int,
    ttl_seconds: int,
    memo: Memo,
    undo: Publication | None = None,
) -> Written:
    """Records of one space, for owners at positions below ``owners``. An unchanged record is written again only to
    renew its expiry, once less than half of its life is left. Changes are noted in ``undo`` before they are written."""
    life, result, seen = _Life.of(ttl_seconds), Written(), memo.of(space.key, owners)
    changes = _item_changes(store, space)
    with Bulk(store.redis) as bulk:
        wanted = _due(space, entries, seen, life, result)
        for due, keys, held in bulk.get_each((one, _record_keys(store, space, one.owners)) for one in wanted):
            stale = _stale(due, held, life, seen)
            result.unchanged += len(due) - len(stale)
            if undo is not None:
                undo.note(_changes(space, due, keys, held, stale))
            if stale:
                memo.about_to_write()
                if changes is not None:
                    changes.about_to_write([due.owners[at] for at in stale])
                blobs = KNOWLEDGE.sealed([due.contents[at] for at in stale], life.now, life.expires_at)
                bulk.set([keys[at] for at in stale], blobs, life.expires_at + GRACE_SECONDS)
                result.add(*blobs)
            # Before the replies: the memo counts only after ``save``, which nobody calls if one of them is a refusal.
            seen.note([due.numbers[at] for at in stale], [due.digests[at] for at in stale], life.expires_at)
    return result


def _item_changes(store: Store, space: Space) -> ItemChanges | None:
    """What names the items whose records are written; None in a space of users, whom every request reads anew."""
    return ItemChanges(store, space.fingerprint) if space.side == "item" else None


def _due(space: Space, entries: Iterable[Entries], seen: Remembered, life: _Life, result: Written) -> Iterator[_Due]:
    """Chunks of the records that the memo does not know as they should be; the others are counted."""
    due = _Due()
    for chunk in entries:
        contents = knowledge_contents(space, chunk.names, chunk.rows, chunk.vectors, chunk.codes)
        wanted = digests(contents)
        unknown = np.flatnonzero(~seen.holds(chunk.numbers, wanted, life.renew_before))
        result.unchanged += len(contents) - len(unknown)
        due.numbers += chunk.numbers[unknown].tolist()
        due.digests += wanted[unknown].tolist()
        due.owners += [chunk.names[at] for at in unknown.tolist()]
        due.contents += [contents[at] for at in unknown.tolist()]
        if fills_a_chunk(due.numbers):
            yield due
            due = _Due()
    if len(due):
        yield due


def _stale(due: _Due, held: Sequence[bytes | None], life: _Life, seen: Remembered) -> list[int]:
    """Which records to write, because Redis holds something else or holds it for too short. The others are noted."""
    stale, fresh, until = [], [], []
    for at, (blob, content) in enumerate(zip(held, due.contents, strict=True)):
        if blob is not None and KNOWLEDGE.says(blob, content) and times(blob)[1] >= life.renew_before:
            fresh.append(at)
            until.append(times(blob)[1])
        else:
            stale.append(at)
    if fresh:
        seen.note([due.numbers[at] for at in fresh], [due.digests[at] for at in fresh], until)
    return stale


def _changes(
    space: Space, due: _Due, keys: Sequence[str], held: Sequence[bytes | None], stale: Sequence[int]
) -> list[Change]:
    """What the journal keeps of those records that are about to say something else. Digests are of contents: a record
    whose expiry is renewed later still counts as the one that was written."""
    changes = []
    for at in stale:
        old, replaced = held[at], None
        if old is not None:
            if KNOWLEDGE.says(old, due.contents[at]):
                continue
            if is_readable(old, due.owners[at], space.fingerprint):
                replaced = content_digest(old)
            else:
                old = None
        changes.append(Change(keys[at], old, replaced, due.digests[at].to_bytes(8, "little")))
    return changes


def renew_knowledge(store: Store, space: Space, owners: Iterable[str], ttl_seconds: int, memo: Memo) -> Written:
    """Let the records of a space that is held back live on as they are: a record must not expire because of that."""
    life, result, changes = _Life.of(ttl_seconds), Written(), _item_changes(store, space)
    with Bulk(store.redis) as bulk:
        for chunk in chunks(owners):
            keys, contents, renewed = [], [], []
            names = _record_keys(store, space, chunk)
            for owner, key, blob in zip(chunk, names, bulk.get(names), strict=True):
                if blob is None or not is_readable(blob, owner, space.fingerprint):
                    continue
                if times(blob)[1] >= life.renew_before:
                    result.unchanged += 1
                    continue
                keys.append(key)
                contents.append(content(blob))
                renewed.append(owner)
            if keys:
                memo.about_to_write()
                if changes is not None:
                    changes.about_to_write(renewed)
                blobs = KNOWLEDGE.sealed(contents, life.now, life.expires_at)
                bulk.set(keys, blobs, life.expires_at + GRACE_SECONDS)
                result.add(*blobs)
    return result


def content(blob: bytes) -> bytes:
    """What a packed record says, without when it was written and when it expires."""
    return KNOWLEDGE.content(blob)


def restamped(blob: bytes, written_at: int, expires_at: int) -> bytes:
    """The same record with other times. Unpacking and packing it again could round int8 values a second time."""
    return KNOWLEDGE.sealed([content(blob)], written_at, expires_at)[0]


def times(blob: bytes) -> tuple[int, int]:
    """(when a packed record was written, when it expires), in unix seconds."""
    written_at, expires_at = KNOWLEDGE.times_of(blob)
    return written_at, expires_at


def content_digest(blob: bytes) -> bytes:
    return digest(content(blob)).to_bytes(8, "little")


def is_readable(blob: bytes, owner: str, space: str) -> bool:
    """Whether it is a record that may be used."""
    try:
        check(blob, owner, space)
    except RecordError:
        return False
    return True


def readable(blob: bytes | None, owner: str, space: str) -> KnowledgeRecord | None:
    """The record in ``blob``; None if there is none, or none that may be used."""
    try:
        return None if blob is None else KnowledgeRecord.unpack(blob, owner, space)
    except RecordError:
        return None
