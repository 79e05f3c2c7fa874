"""What all writers share: counts, chunks, the stream of changes; and the item features of a release, written only where
they changed.

The stream of changes names items whose records are about to be written, for services that have their item table
already; see ``models.contract.snapshot`` for its entries.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.bulk import item_rows
from models.contract.keys import of_each
from models.contract.packing import ITEM, item_contents
from models.contract.schema import FeatureSchema
from models.contract.snapshot import change
from offline.data.catalogue import Catalogue
from offline.publish.connection import Bulk, Store

LONGEST_CHANGE = 50_000
"""Changed items beyond which a new snapshot is written: a service reads and decodes so many in about a second."""

_STREAM_ENTRIES = 10_000
"""Length of the stream: what is older is in some snapshot, or is read with all other items."""

_CHUNK = 1000

T = TypeVar("T")


@dataclass(slots=True)
class Written:
    """How many records were written and how many were already as wanted, and how many bytes of values went out."""

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
    categorical = schema.encode_each_item([catalogue.items.get(item, {}) for item in item_ids])
    now = int(time.time())
    result, changes = Written(), ItemChanges(store, release)
    with Bulk(store.redis) as bulk:
        for start in range(0, len(item_ids), _CHUNK):
            at = slice(start, start + _CHUNK)
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


def _stored_rows(blobs: Sequence[bytes | None], names: Sequence[str], schema: FeatureSchema) -> IntArray:
    """The row of the id embedding in each record that is there, 0 where there is none that may be used."""
    decoded = item_rows(blobs, names, schema)
    rows = np.zeros(len(names), np.int64)
    rows[decoded.at] = decoded.index
    return rows


def fills_a_chunk(entries: Sized) -> bool:
    """Whether so many should wait no longer."""
    return len(entries) >= _CHUNK


def chunks(entries: Iterable[T]) -> Iterator[list[T]]:
    """Lists of up to 1,000 entries: what goes to Redis at once."""
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
