"""Profiles and live histories of users, as the service reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.events import EVENT_BYTES, EVENT_DTYPE, item_hash, owner_tag
from models.contract.profile import UserProfile
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog, UserIndex
from offline.publish.connection import Store
from offline.publish.memo import Memo, digest
from offline.publish.records import Written, chunks

_REPLACE_IF_UNCHANGED = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


def write_profiles(
    store: Store, catalogue: Catalogue, log: InteractionLog, memo: Memo, users: Collection[int] | None = None
) -> Written:
    """Profiles that changed, of all users of the log or of those at the positions ``users``."""
    result, seen = Written(), memo.of("user profiles", len(log.user_ids))
    for chunk in chunks(_positions(log, users)):
        due = []
        for user in chunk:
            name = log.user_ids[user]
            blob = UserProfile(owner=name, features=catalogue.users.get(name, {})).pack()
            if seen.holds(user, digest(blob)):
                result.unchanged += 1
            else:
                due.append((user, store.keys.user_profile(name), blob))
        held: Any = store.redis.mget([key for _, key, _ in due]) if due else []
        changed = [one for one, old in zip(due, held, strict=True) if one[2] != old]
        if changed:
            memo.about_to_write()
            pipeline = store.redis.pipeline(transaction=False)
            for _, key, blob in changed:
                pipeline.set(key, blob)
                result.add(blob)
            pipeline.execute()
        result.unchanged += len(due) - len(changed)
        for user, _, blob in due:
            seen.note(user, digest(blob))
    return result


def write_histories(
    store: Store, log: InteractionLog, max_events: int, memo: Memo, users: Collection[int] | None = None
) -> Written:
    """Live histories that lack events of the log, because they are new, or because feedback came before them; of all
    users of the log or of those at the positions ``users``.

    A history belongs to the service, which may append to it at any moment. It is therefore replaced only while it is
    what was read, and keeps the events that the log does not know yet, at its end.
    """
    index = log.by_user()
    hashes = np.fromiter((item_hash(item) for item in log.item_ids), np.uint64, len(log.item_ids))
    result, seen = Written(), memo.of("user histories", len(log.user_ids))
    for chunk in chunks(_positions(log, users)):
        due = []
        for user in chunk:
            known = packed_history(log, index, hashes, user, max_events)
            if seen.holds(user, digest(log.user_ids[user].encode(), known)):
                result.unchanged += 1
            else:
                due.append((user, store.keys.user_history(log.user_ids[user]), known))
        pipeline = store.redis.pipeline(transaction=False)
        for _, key, _ in due:
            pipeline.strlen(key)
        for (user, key, known), length in zip(due, pipeline.execute() if due else [], strict=True):
            lacks = length < len(known)
            if lacks:
                memo.about_to_write()
            if lacks and not _complete(store, key, known, max_events):
                result.unchanged += 1
                continue
            seen.note(user, digest(log.user_ids[user].encode(), known))
            if lacks:
                result.add(known)
            else:
                result.unchanged += 1
    return result


def _positions(log: InteractionLog, users: Collection[int] | None) -> Iterable[int]:
    return range(len(log.user_ids)) if users is None else sorted(set(users))


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
