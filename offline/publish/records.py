"""What is written for users and items: packed records of the contract, and only those that changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from models.contract.events import EVENT_DTYPE, item_hash, owner_tag
from models.contract.items import ItemRecord
from models.contract.knowledge import FloatArray, KnowledgeRecord, RecordError
from models.contract.profile import UserProfile
from models.contract.schema import FeatureSchema
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog, UserIndex
from offline.publish.connection import Store

_CHUNK = 1000
_GRACE_SECONDS = 7 * 86_400
"""A stale record stays readable for a week: the service uses it and says so, instead of losing it at once."""


@dataclass(slots=True)
class Written:
    """How many records were written and how many were already as wanted, and how many bytes went out."""

    written: int = 0
    unchanged: int = 0
    size: int = 0

    def add(self, blob: bytes) -> None:
        self.written += 1
        self.size += len(blob)


def write_knowledge(
    store: Store,
    side: Literal["user", "item"],
    space: str,
    entries: Iterable[tuple[str, FloatArray]],
    dtype: Literal["float16", "int8"],
    ttl_seconds: int,
) -> Written:
    """Knowledge records of (owner, vectors). An unchanged record is written again only to renew its expiry, once
    less than half of its life is left."""
    key_of = store.keys.user_knowledge if side == "user" else store.keys.item_knowledge
    now = int(time.time())
    result = Written()
    for chunk in _chunks(entries):
        held: Any = store.redis.mget([key_of(owner, space) for owner, _ in chunk])
        pipeline = store.redis.pipeline(transaction=False)
        for (owner, vectors), old in zip(chunk, held, strict=True):
            blob = KnowledgeRecord(owner, space, vectors, now, now + ttl_seconds).pack(dtype)
            if old is not None and _same_and_young(old, blob, owner, space, now + ttl_seconds // 2):
                result.unchanged += 1
                continue
            pipeline.set(key_of(owner, space), blob, exat=now + ttl_seconds + _GRACE_SECONDS)
            result.add(blob)
        pipeline.execute()
    return result


def write_items(
    store: Store,
    release: str,
    schema: FeatureSchema,
    catalogue: Catalogue,
    item_ids: Sequence[str],
    index: Sequence[int],
    numeric: FloatArray,
) -> Written:
    """Feature records of all items of a release."""
    now = int(time.time())
    result = Written()
    for chunk in _chunks(zip(item_ids, index, numeric, strict=True)):
        keys = [store.keys.item_features(item, release) for item, _, _ in chunk]
        held: Any = store.redis.mget(keys)
        pipeline = store.redis.pipeline(transaction=False)
        for (item, row, statistics), key, old in zip(chunk, keys, held, strict=True):
            categorical = tuple(schema.encode_item_fields(catalogue.items.get(item, {})))
            record = ItemRecord(item, schema.fingerprint, int(row), categorical, tuple(statistics.tolist()), now)
            if old is not None and _same_item(old, record, schema):
                result.unchanged += 1
                continue
            blob = record.pack()
            pipeline.set(key, blob)
            result.add(blob)
        pipeline.execute()
    return result


def write_users(store: Store, catalogue: Catalogue, log: InteractionLog, max_events: int) -> dict[str, Written]:
    """Profiles that changed, and live histories of users that have none.

    A history that exists is never replaced: it belongs to the service, which may have appended to it a moment ago.
    """
    index = log.by_user()
    hashes = np.fromiter((item_hash(item) for item in log.item_ids), np.uint64, len(log.item_ids))
    profiles, histories = Written(), Written()
    for chunk in _chunks(range(len(log.user_ids))):
        names = [log.user_ids[user] for user in chunk]
        held: Any = store.redis.mget([store.keys.user_profile(name) for name in names])
        pipeline = store.redis.pipeline(transaction=False)
        for name, old in zip(names, held, strict=True):
            blob = UserProfile(owner=name, features=catalogue.users.get(name, {})).pack()
            if blob == old:
                profiles.unchanged += 1
            else:
                pipeline.set(store.keys.user_profile(name), blob)
                profiles.add(blob)
        pipeline.execute()
        blobs = [packed_history(log, index, hashes, user, max_events) for user in chunk]
        for name, blob in zip(names, blobs, strict=True):
            pipeline.set(store.keys.user_history(name), blob, nx=True)
        for blob, written in zip(blobs, pipeline.execute(), strict=True):
            if written:
                histories.add(blob)
            else:
                histories.unchanged += 1
    return {"user profiles": profiles, "user histories": histories}


def packed_history(log: InteractionLog, index: UserIndex, item_hashes: Any, user: int, max_events: int) -> bytes:
    """A user's last ``max_events`` log rows as the live history holds them."""
    rows = index.of_user(user)[-max_events:]
    events = np.zeros(len(rows), EVENT_DTYPE)
    events["item"] = item_hashes[log.item[rows]]
    events["time_ms"] = log.time_ms[rows]
    events["owner"] = owner_tag(log.user_ids[user])
    events["value"] = log.value[rows]
    return events.tobytes()


def _same_and_young(old: bytes, new: bytes, owner: str, space: str, renew_before: int) -> bool:
    try:
        held = KnowledgeRecord.unpack(old, owner, space)
        wanted = KnowledgeRecord.unpack(new, owner, space)
    except RecordError:
        return False
    same = held.codes == wanted.codes and np.array_equal(held.vectors, wanted.vectors)
    return same and held.expires_at >= renew_before


def _same_item(old: bytes, wanted: ItemRecord, schema: FeatureSchema) -> bool:
    try:
        held = ItemRecord.unpack(old, wanted.owner, schema)
    except RecordError:
        return False
    return (held.index, held.categorical, held.numeric) == (wanted.index, wanted.categorical, wanted.numeric)


def _chunks(entries: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
