"""The parts that all writers of records share: counts, chunks, the stream of changes, and the write cache.

The stream of changes names items whose records are about to be written, for services that have their item table
already; see ``models.contract.snapshot`` for its entries.

The write cache says what the last publication left in Redis, so that the next need not read every record to find out
what changed: of each record its digest and its expiry, by position in the interaction log. It counts only while Redis
carries the generation with which it was saved. The generation goes before the first record is written and a new one
comes after the last, so a Redis that was wiped, set back to a snapshot, written by another work folder or left by a
killed publication has none or another; then every record is read. What the generation does not show is a record that
somebody deleted by hand, or that Redis evicted: it comes back when its expiry is renewed, or when the generation is
taken away.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from models.contract.snapshot import change
from offline.data.files import write_bytes
from offline.publish.connection import Store

WRITE_CACHE_FOLDER = "published"
"""Inside a work folder."""

_ENTRY = np.dtype([("digest", "<u8"), ("until", "<i8")])

_FOREVER = 2**62
"""A time (unix s) that no record outlives."""

LONGEST_CHANGE = 50_000
"""Changed items beyond which a new snapshot is written: a service reads and decodes so many in about a second."""

_STREAM_ENTRIES = 10_000
"""Length of the stream: what is older is in some snapshot, or is read with all other items."""

_CHUNK = 1000

T = TypeVar("T")


@dataclass(slots=True)
class Written:
    """Counts of records that were written and that were up to date already, and of bytes of values that went out."""

    written: int = 0
    unchanged: int = 0
    size: int = 0

    def add(self, *blobs: bytes) -> None:
        self.written += len(blobs)
        self.size += sum(map(len, blobs))


def append_change(store: Store, of: str, ids: Sequence[str] | None = ()) -> str:
    """Append an entry to the stream (no ids: a mark; None: any item); its id, which holds the time: after Redis lost
    its last writes, ids that a service has seen do not come back."""
    entry: Any = store.redis.xadd(store.keys.changes, change(of, ids), maxlen=_STREAM_ENTRIES, approximate=True)
    return str(entry.decode())


class ItemChanges:
    """Names items whose records in a space, or of a release's features, are about to be written. Beyond
    ``LONGEST_CHANGE`` of them it says that any item may have changed: there will be a new snapshot anyway."""

    def __init__(self, store: Store, of: str) -> None:
        self._store, self._of, self._count = store, of, 0

    def about_to_write(self, ids: Sequence[str]) -> None:
        """Call before the records of these items are written."""
        if not ids or self._count > LONGEST_CHANGE:
            return
        self._count += len(ids)
        append_change(self._store, self._of, None if self._count > LONGEST_CHANGE else ids)


def fills_a_chunk(entries: Sized) -> bool:
    """Whether so many entries should wait no longer."""
    return len(entries) >= _CHUNK


def chunks(entries: Iterable[T]) -> Iterator[list[T]]:
    """Lists of up to 1,000 entries: what goes to Redis at once."""
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def record_digest(*parts: bytes) -> int:
    """64 bits that tell contents apart; never 0, which is an entry that knows nothing."""
    return int(record_digests([b"\0".join(parts)])[0])


def record_digests(contents: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """``record_digest`` of each of the contents."""
    hashes = b"".join([hashlib.blake2b(content, digest_size=8).digest() for content in contents])
    return np.maximum(np.frombuffer(hashes, np.dtype("<u8")), np.uint64(1))


class RecordDigests:
    """Records of one kind: their digests, and until when (unix s) they stay fresh."""

    def __init__(self, table: npt.NDArray[np.void]) -> None:
        self._table = table

    def holds(
        self, numbers: npt.ArrayLike, digests: npt.ArrayLike, until: int = 0, at_most: int = _FOREVER
    ) -> npt.NDArray[np.bool_]:
        """Whether Redis holds these contents for the owners ``numbers``, fresh at ``until`` and no longer than until
        ``at_most``."""
        entries = self._table[np.asarray(numbers, np.int64)]
        fresh = (entries["until"] >= until) & (entries["until"] <= at_most)
        return np.asarray((entries["digest"] == np.asarray(digests, np.uint64)) & fresh)

    def note(self, numbers: npt.ArrayLike, digests: npt.ArrayLike, until: npt.ArrayLike = 0) -> None:
        """Redis holds them: they were just read there, or written after ``WriteCache.about_to_write``."""
        at = np.asarray(numbers, np.int64)
        self._table["digest"][at] = np.asarray(digests, np.uint64)
        self._table["until"][at] = until


class WriteCache:
    """The write cache of one store in ``folder``, which no other process uses meanwhile."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._generation: Any = store.redis.get(store.keys.generation)
        self._written = False
        self._tables: dict[str, npt.NDArray[np.void]] = {}
        path = folder / "stamp"
        if self._generation is None or not path.is_file() or path.read_bytes() != self._generation:
            shutil.rmtree(folder, ignore_errors=True)

    def of(self, kind: str, owners: int) -> RecordDigests:
        """Digests and expiries ``owners`` records of one kind, such as "user/liber"."""
        path = self._folder / f"{kind.replace('/', '-').replace(' ', '-')}.npy"
        self._tables[kind] = _opened(path, max(owners, 1))
        return RecordDigests(self._tables[kind])

    def about_to_write(self) -> None:
        """Call before a record is written: from here to ``save`` neither this cache counts nor anybody else's."""
        if not self._written:
            (self._folder / "stamp").unlink(missing_ok=True)
            forget(self._store)
            self._written = True

    def save(self) -> None:
        """After the last record: let the cache count from now on. Redis is left alone if nothing was written to it."""
        for table in self._tables.values():
            if isinstance(table, np.memmap):
                table.flush()
        generation = self._generation
        if generation is None or self._written:
            generation = secrets.token_hex(8).encode()
        write_bytes(self._folder / "stamp", generation)
        if generation != self._generation:
            self._store.redis.set(self._store.keys.generation, generation)


def forget(store: Store) -> None:
    """Take the generation away: whoever writes records without a write cache calls this first."""
    store.redis.delete(store.keys.generation)


def _opened(path: Path, owners: int) -> npt.NDArray[np.void]:
    """The table in ``path``, grown to ``owners`` entries; an empty one if it is absent or not understood."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.zeros(0, _ENTRY)
    with suppress(OSError, ValueError):
        saved = np.lib.format.open_memmap(path, mode="r+")
        if saved.dtype == _ENTRY and saved.ndim == 1:
            table = saved
    if len(table) >= owners:
        return table
    path.unlink(missing_ok=True)  # its old rows stay readable until nothing maps them
    grown = np.lib.format.open_memmap(path, mode="w+", dtype=_ENTRY, shape=(owners + owners // 8,))
    grown[: len(table)] = table
    return grown
