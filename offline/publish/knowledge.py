"""Knowledge records in Redis: written where they changed, journaled before that, and renewed while they are held back.

A record of a user or an item that is no longer produced, or of a space that no release uses any more, is not deleted:
nobody renews it, and it goes when its life and a week of grace are over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.contract.arrays import Codes, FloatArray, IntArray
from models.contract.keys import of_each
from models.contract.knowledge import KnowledgeRecord, RecordError, Space, check
from models.contract.packing import KNOWLEDGE, knowledge_contents
from offline.data.catalogue import DataError
from offline.knowledge.vectors import ItemVectors, UserVectors
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.records import (
    ItemChanges,
    RecordDigests,
    WriteCache,
    Written,
    chunks,
    fills_a_chunk,
    record_digest,
    record_digests,
)
from offline.publish.tombstones import TombstoneWatch
from offline.publish.undo import Change, Publication

GRACE_SECONDS = 7 * 86_400
"""A stale record stays readable for a week: the service uses it and says so, instead of losing it at once."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Knowledge of k owners in one space.

    numbers  int64 [k]   their positions in the log
    names    k ids
    rows     int64 [k]   how many vectors each has
    vectors  float32 [sum of rows, dim], those of an owner together
    codes    uint16 [k, n]
    """

    numbers: IntArray
    names: Sequence[str]
    rows: IntArray
    vectors: FloatArray
    codes: Codes


def owners(vectors: UserVectors | ItemVectors, ids: Sequence[str], only: Iterable[int] | None = None) -> list[int]:
    """Positions of those whom ``vectors`` may know, or of those of them in ``only``.

    Knowledge may be older than the log, and then knows nobody who came later. DataError if it is of another log.
    """
    count = len(vectors.start) - 1 if isinstance(vectors, UserVectors) else len(vectors.known)
    if count > len(ids):
        raise DataError(f"the knowledge {vectors.space.key} knows {count} {vectors.space.side}s, the log {len(ids)}")
    return list(range(count)) if only is None else sorted({number for number in only if number < count})


def entries(vectors: UserVectors | ItemVectors, ids: Sequence[str], numbers: Iterable[int]) -> Iterator[Entries]:
    """Knowledge of these owners, in chunks; nothing of an owner that nothing is known of.

    Of a user the newest versions, as in ``UserVectors.of_user``, with the codes of the last one.
    """
    for chunk in chunks(numbers):
        at = np.array(chunk, np.int64)
        if isinstance(vectors, UserVectors):
            at = at[vectors.start[at + 1] > vectors.start[at]]
            end = vectors.start[at + 1]
            rows = np.minimum(end - vectors.start[at], vectors.space.rows)
            versions = np.repeat(end - np.cumsum(rows), rows) + np.arange(int(rows.sum()))
            published, coded = vectors.vectors[versions], end - 1
        else:
            at = at[vectors.known[at]]
            rows, published, coded = np.ones_like(at), vectors.published[at], at
        codes = np.zeros((len(at), 0), np.uint16) if vectors.codes is None else vectors.codes[coded]
        yield Entries(at, [ids[number] for number in at.tolist()], rows, published, codes)


@dataclass(slots=True)
class _Due:
    """Records that have to be looked at: positions and names of their owners, what they should say, and its digests."""

    numbers: list[int] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)

    def note(self, seen: RecordDigests, at: Sequence[int], until: int | list[int]) -> None:
        """Note in the write cache that Redis holds the records at these places, fresh until then (unix s)."""
        seen.note([self.numbers[place] for place in at], [self.digests[place] for place in at], until)


class KnowledgeWriter:
    """Writes records of one space, with ``ttl_seconds`` of life from now on. For one call of ``write`` or ``renew``.
    Records of users who are forgotten meanwhile, as the ``watch`` tells, are deleted again."""

    def __init__(
        self,
        store: Store,
        space: Space,
        ttl_seconds: int,
        write_cache: WriteCache,
        watch: TombstoneWatch | None = None,
    ) -> None:
        self._store, self._space, self._write_cache = store, space, write_cache
        self._watch = watch if space.side == "user" else None
        self._now = int(time.time())
        self._expires_at = self._now + ttl_seconds
        self._renew_before = self._now + ttl_seconds // 2
        # nobody is told of users, whom every request reads anew
        self._changes = ItemChanges(store, space.fingerprint) if space.side == "item" else None
        self._written = Written()

    def write(self, entries: Iterable[Entries], owners: int, undo: Publication | None = None) -> Written:
        """Write the records of owners at positions below ``owners``. An unchanged record is written again only for its
        expiry: once less than half of a life is left, or if more than a life is, which was shortened then. Changes are
        noted in ``undo`` before they are written."""
        seen = self._write_cache.of(self._space.key, owners)
        with Bulk(self._store.redis) as bulk:
            for due in self._due(entries, seen):
                keys = self._keys(due.owners)
                blobs = bulk.get(keys)
                stale = self._stale(due, blobs, seen)
                if undo is not None:
                    undo.note(self._journal_entries(due, keys, blobs, stale))
                stale_owners, contents = [due.owners[at] for at in stale], [due.contents[at] for at in stale]
                self._put(bulk, [keys[at] for at in stale], stale_owners, contents)
                # Before the replies: notes count only after ``save``, which nobody calls if one is a refusal.
                due.note(seen, stale, self._expires_at)
        return self._written

    def renew(self, owners: Iterable[str]) -> Written:
        """Let records that are held back live on as they are: a record must not expire because of that."""
        with Bulk(self._store.redis) as bulk:
            for chunk in chunks(owners):
                keys = self._keys(chunk)
                readable = [
                    (key, owner, blob)
                    for key, owner, blob in zip(keys, chunk, bulk.get(keys), strict=True)
                    if blob is not None and is_readable(blob, owner, self._space.fingerprint)
                ]
                old = [record for record in readable if not self._lives_long_enough(record[2])]
                self._written.unchanged += len(readable) - len(old)
                contents = [KNOWLEDGE.content(blob) for _, _, blob in old]
                self._put(bulk, [key for key, _, _ in old], [owner for _, owner, _ in old], contents)
        return self._written

    def _lives_long_enough(self, blob: bytes) -> bool:
        """Whether a packed record has at least half of a life left, and no more than a whole one."""
        return self._renew_before <= times(blob)[1] <= self._expires_at

    def _keys(self, owners: Sequence[str]) -> list[str]:
        space = self._space
        return of_each(lambda owner: record_key(self._store, space.side, owner, space.fingerprint), owners)

    def _put(self, bulk: Bulk, keys: list[str], owners: list[str], contents: list[bytes]) -> None:
        if not keys:
            return
        self._write_cache.about_to_write()
        if self._changes is not None:
            self._changes.about_to_write(owners)
        blobs = KNOWLEDGE.sealed(contents, self._now, self._expires_at)
        bulk.set(keys, blobs, self._expires_at + GRACE_SECONDS)
        if self._watch is not None:
            bulk.delete([keys[at] for at in self._watch.look(owners)])
        self._written.add(*blobs)

    def _due(self, entries: Iterable[Entries], seen: RecordDigests) -> Iterator[_Due]:
        """Chunks of the records that the write cache does not know as they should be; the others are counted."""
        due = _Due()
        for chunk in entries:
            contents = knowledge_contents(self._space, chunk.names, chunk.rows, chunk.vectors, chunk.codes)
            digests = record_digests(contents)
            current = seen.holds(chunk.numbers, digests, self._renew_before, self._expires_at)
            unknown = np.flatnonzero(~current)
            self._written.unchanged += len(contents) - len(unknown)
            due.numbers += chunk.numbers[unknown].tolist()
            due.digests += digests[unknown].tolist()
            due.owners += [chunk.names[at] for at in unknown.tolist()]
            due.contents += [contents[at] for at in unknown.tolist()]
            if fills_a_chunk(due.numbers):
                yield due
                due = _Due()
        if due.numbers:
            yield due

    def _stale(self, due: _Due, blobs: Sequence[bytes | None], seen: RecordDigests) -> list[int]:
        """Places of the records to write, because Redis holds something else, or holds it for too short or too long.
        The others are noted and counted."""
        until = {
            at: times(blob)[1]
            for at, (blob, content) in enumerate(zip(blobs, due.contents, strict=True))
            if blob is not None and KNOWLEDGE.says(blob, content) and self._lives_long_enough(blob)
        }
        due.note(seen, list(until), list(until.values()))
        self._written.unchanged += len(until)
        return [at for at in range(len(blobs)) if at not in until]

    def _journal_entries(
        self, due: _Due, keys: Sequence[str], blobs: Sequence[bytes | None], stale: Sequence[int]
    ) -> list[Change]:
        """Entries of those records that are about to say something else. Digests are of contents: a record whose
        expiry is renewed later still counts as the one that was written."""
        changes = []
        for at in stale:
            old, replaced = blobs[at], None
            if old is not None:
                if KNOWLEDGE.says(old, due.contents[at]):
                    continue
                if is_readable(old, due.owners[at], self._space.fingerprint):
                    replaced = content_digest(old)
                else:
                    old = None
            changes.append(Change(keys[at], old, replaced, due.digests[at].to_bytes(8, "little")))
        return changes


def record_key(store: Store, side: str, owner: str, space: str) -> str:
    return (store.keys.user_knowledge if side == "user" else store.keys.item_knowledge)(owner, space)


def restamped(blob: bytes, written_at: int, expires_at: int) -> bytes:
    """The same record with other times. Unpacking and packing it again could round int8 values a second time."""
    return KNOWLEDGE.sealed([KNOWLEDGE.content(blob)], written_at, expires_at)[0]


def times(blob: bytes) -> tuple[int, int]:
    """(when a packed record was written, when it expires), in unix seconds."""
    written_at, expires_at = KNOWLEDGE.times_of(blob)
    return written_at, expires_at


def content_digest(blob: bytes) -> bytes:
    return record_digest(KNOWLEDGE.content(blob)).to_bytes(8, "little")


def is_readable(blob: bytes, owner: str, space: str) -> bool:
    """Whether a packed record is one that may be used."""
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
