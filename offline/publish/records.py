"""What all writers share: counts and chunks; and the item features of a release, written only where they changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from models.contract.items import ItemRecord
from models.contract.knowledge import FloatArray, RecordError
from models.contract.schema import FeatureSchema
from offline.data.catalogue import Catalogue
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
    now = int(time.time())
    result = Written()
    rows: Sequence[int | None] = [None] * len(item_ids) if index is None else index
    for chunk in chunks(zip(item_ids, rows, numeric, strict=True)):
        keys = [store.keys.item_features(item, release) for item, _, _ in chunk]
        replies: Any = store.redis.mget(keys)
        pipeline = store.redis.pipeline(transaction=False)
        for (item, row, statistics), key, reply in zip(chunk, keys, replies, strict=True):
            held = _held_item(reply, item, schema)
            if row is None:
                row = 0 if held is None else held.index
            categorical = tuple(schema.encode_item_fields(catalogue.items.get(item, {})))
            record = ItemRecord(item, schema.fingerprint, int(row), categorical, tuple(statistics.tolist()), now)
            if held is not None and replace(held, written_at=now) == record:
                result.unchanged += 1
                continue
            blob = record.pack()
            pipeline.set(key, blob)
            result.add(blob)
        pipeline.execute()
    return result


def _held_item(blob: bytes | None, item: str, schema: FeatureSchema) -> ItemRecord | None:
    try:
        return None if blob is None else ItemRecord.unpack(blob, item, schema)
    except RecordError:
        return None


def fills_a_chunk(entries: Sized) -> bool:
    """Whether so many should wait no longer."""
    return len(entries) >= _CHUNK


def chunks(entries: Iterable[T]) -> Iterator[list[T]]:
    """Lists of up to 1,000 entries: what goes to Redis at once."""
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
