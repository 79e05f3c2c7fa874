"""What all writers share: counts and chunks; and the item features of a release, written only where they changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.bulk import item_rows
from models.contract.keys import of_each
from models.contract.packing import ITEM, item_contents
from models.contract.schema import FeatureSchema
from offline.data.catalogue import Catalogue
from offline.publish.bulk import Bulk
from offline.publish.changes import ItemChanges
from offline.publish.connection import Store

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
        parts = slices(len(item_ids))
        asked = ((at, of_each(lambda item: store.keys.item_features(item, release), item_ids[at])) for at in parts)
        for at, keys, held in bulk.get_each(asked):
            names = item_ids[at]
            rows = _held_rows(held, names, schema) if index is None else np.array(index[at], np.int64)
            contents = item_contents(schema.fingerprint, names, rows, categorical[at], numeric[at])
            stale = [
                one
                for one, (blob, content) in enumerate(zip(held, contents, strict=True))
                if blob is None or not ITEM.says(blob, content)
            ]
            result.unchanged += len(names) - len(stale)
            blobs = ITEM.sealed([contents[one] for one in stale], now)
            changes.about_to_write([names[one] for one in stale])
            bulk.set([keys[one] for one in stale], blobs)
            result.add(*blobs)
    return result


def _held_rows(held: Sequence[bytes | None], names: Sequence[str], schema: FeatureSchema) -> IntArray:
    """The row of the id embedding in each record that is there, 0 where there is none that may be used."""
    found = item_rows(held, names, schema)
    rows = np.zeros(len(names), np.int64)
    rows[found.at] = found.index
    return rows


def slices(count: int) -> Iterator[slice]:
    """Parts of a sequence of ``count`` entries that are chunks."""
    return (slice(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK))


def fills_a_chunk(entries: Sized) -> bool:
    """Whether so many should wait no longer."""
    return len(entries) >= _CHUNK


def chunks(entries: Iterable[T]) -> Iterator[list[T]]:
    """Lists of up to 1,000 entries: what goes to Redis at once."""
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
