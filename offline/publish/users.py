"""Profiles and live histories of users, as the service reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.events import EVENT_BYTES, EVENT_DTYPE, item_hash, owner_tag
from models.contract.profile import UserProfile
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog, UserIndex
from offline.publish.connection import Store
from offline.publish.records import Written, chunks

_REPLACE_IF_UNCHANGED = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


def write_profiles(store: Store, catalogue: Catalogue, log: InteractionLog) -> Written:
    """Profiles that changed, of all users of the log."""
    result = Written()
    for names in chunks(log.user_ids):
        held: Any = store.redis.mget([store.keys.user_profile(name) for name in names])
        pipeline = store.redis.pipeline(transaction=False)
        for name, old in zip(names, held, strict=True):
            blob = UserProfile(owner=name, features=catalogue.users.get(name, {})).pack()
            if blob == old:
                result.unchanged += 1
            else:
                pipeline.set(store.keys.user_profile(name), blob)
                result.add(blob)
        pipeline.execute()
    return result


def write_histories(store: Store, log: InteractionLog, max_events: int) -> Written:
    """Live histories that lack events of the log, because they are new, or because feedback came before them.

    A history belongs to the service, which may append to it at any moment. It is therefore replaced only while it is
    what was read, and keeps the events that the log does not know yet, at its end.
    """
    index = log.by_user()
    hashes = np.fromiter((item_hash(item) for item in log.item_ids), np.uint64, len(log.item_ids))
    result = Written()
    for users in chunks(range(len(log.user_ids))):
        keys = [store.keys.user_history(log.user_ids[user]) for user in users]
        pipeline = store.redis.pipeline(transaction=False)
        for key in keys:
            pipeline.strlen(key)
        for user, key, length in zip(users, keys, pipeline.execute(), strict=True):
            known = packed_history(log, index, hashes, user, max_events)
            if length < len(known) and _complete(store, key, known, max_events):
                result.add(known)
            else:
                result.unchanged += 1
    return result


def _complete(store: Store, key: str, known: bytes, max_events: int) -> bool:
    """Whether the history at ``key`` was absent or could be replaced; if not, the next refresh tries again."""
    if store.redis.set(key, known, nx=True):
        return True
    held: Any = store.redis.get(key)
    seen = set(_events(known))
    later = b"".join(event for event in _events(held or b"") if event not in seen)
    whole = (known + later)[-max_events * EVENT_BYTES :]
    return bool(store.redis.eval(_REPLACE_IF_UNCHANGED, 1, key, held or b"", whole))


def _events(blob: bytes) -> list[bytes]:
    return [blob[at : at + EVENT_BYTES] for at in range(0, len(blob) - EVENT_BYTES + 1, EVENT_BYTES)]


def packed_history(
    log: InteractionLog, index: UserIndex, item_hashes: npt.NDArray[np.uint64], user: int, max_events: int
) -> bytes:
    """A user's last ``max_events`` log rows as the live history holds them."""
    rows = index.of_user(user)[-max_events:]
    events = np.zeros(len(rows), EVENT_DTYPE)
    events["item"] = item_hashes[log.item[rows]]
    events["time_ms"] = log.time_ms[rows]
    events["owner"] = owner_tag(log.user_ids[user])
    events["value"] = log.value[rows]
    return events.tobytes()
