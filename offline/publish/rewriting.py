"""Live histories after the log was loaded under other settings: what the log dropped must go from them, too.

Redis notes the settings whose log the histories are of. Where they are others, every history becomes the log's events
and those that the service has streamed since: nothing else can be told from what was dropped. As ever, a history is
replaced only while it is what was read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.contract.events import EVENT_BYTES, item_hash
from models.contract.keys import of_each, owners_of
from offline.data.log import InteractionLog
from offline.data.log_settings import settings_digest
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.features import REPLACE_IF_UNCHANGED, erase_events, packed_histories
from offline.publish.records import WriteCache, Written, chunks
from offline.publish.streams import installation_of, new_interactions
from offline.publish.tombstones import TombstoneWatch

_ATTEMPTS = 3
"""Tries to replace a history that the service appends to meanwhile."""


def are_of_other_settings(store: Store, configuration: str, log: InteractionLog) -> bool:
    """Whether what a configuration has published comes from a log of other settings. Not if nobody noted those of
    either, or if another configuration published: its events are not this one's to drop."""
    noted: Any = store.redis.get(store.keys.log_settings)
    owner, _, digest = (noted or b"").decode().partition(" ")
    return log.settings is not None and owner == configuration and digest != settings_digest(log.settings)


def note_settings(store: Store, configuration: str, log: InteractionLog) -> None:
    """Note whose log the histories are of, once they are; nothing of a log that does not tell its settings."""
    if log.settings is None:
        return
    note: Any = f"{configuration} {settings_digest(log.settings)}".encode()
    if store.redis.get(store.keys.log_settings) != note:
        store.redis.set(store.keys.log_settings, note)


def rewrite_histories(
    store: Store, log: InteractionLog, max_events: int, write_cache: WriteCache, watch: TombstoneWatch | None = None
) -> tuple[Written, bool]:
    """Every live history, also of users whom the log no longer knows, but of those who are forgotten; and whether all
    could be replaced. The service appended to the others in the middle of it: the next publication begins again."""
    known = set(log.user_ids)
    gone = [user for user in _with_history(store) if user not in known]
    mark = log.stream_mark if log.stream in ("", installation_of(store)) else "0-0"
    result, complete = Written(), True
    write_cache.about_to_write()
    with Bulk(store.redis) as bulk:
        for chunk in chunks(zip([*log.user_ids, *gone], _logged(log, max_events, len(gone)), strict=True)):
            left = {user: blob for user, blob in chunk if watch is None or not watch.blocks(user)}
            users = list(left)
            for _ in range(_ATTEMPTS):
                if left:
                    left = _replaced(store, bulk, mark, left, max_events, result)
            complete = complete and not left
            if watch is not None:
                forgotten = [users[place] for place in watch.look(users)]
                erase_events(bulk, {store.keys.user_history(user): watch.until_ms(user) for user in forgotten})
    return result, complete


def _logged(log: InteractionLog, max_events: int, others: int) -> Iterator[bytes]:
    """The history that the log has of each of its users, and the empty one of so many ``others``."""
    index = log.by_user()
    hashes = np.fromiter((item_hash(item) for item in log.item_ids), np.uint64, len(log.item_ids))
    for users in chunks(range(len(log.user_ids))):
        yield from packed_histories(log, index, hashes, users, max_events)
    yield from [b""] * others


def _with_history(store: Store) -> list[str]:
    """Ids of the users who have a live history."""
    scanned = store.redis.scan_iter(match=store.keys.user_history("*"), count=10_000)
    keys = [key.decode(errors="replace") for key in scanned]  # one that is no text is of nobody
    return sorted(set(owners_of(keys, store.keys.user_history(""))))


def _replaced(
    store: Store, bulk: Bulk, mark: str, logged: dict[str, bytes], max_events: int, result: Written
) -> dict[str, bytes]:
    """Replace the histories of these users; those that changed meanwhile come back. The service writes the
    stream before a history, so the stream, read after the histories, has all that came into them."""
    users = list(logged)
    keys = of_each(store.keys.user_history, users)
    before = [blob or b"" for blob in bulk.get(keys)]
    streamed: dict[str, set[bytes]] = defaultdict(set)
    for event in new_interactions(store, mark)[0]:
        streamed[event.user_id].add(event.pack())
    after = [_joined(logged[user], blob, streamed[user], max_events) for user, blob in zip(users, before, strict=True)]
    stale = [at for at in range(len(users)) if before[at] != after[at]]
    replies = bulk.ask([("EVAL", REPLACE_IF_UNCHANGED, 1, keys[at], before[at], after[at]) for at in stale])
    result.add(*(after[at] for at, done in zip(stale, replies, strict=True) if done))
    result.unchanged += len(users) - len(stale)
    return {users[at]: logged[users[at]] for at, done in zip(stale, replies, strict=True) if not done}


def _joined(logged: bytes, stored: bytes, streamed: set[bytes], max_events: int) -> bytes:
    """The logged events, and after them those of the stored history that were ``streamed`` since."""
    of_log = set(_events(logged))
    late = [event for event in _events(stored) if event in streamed and event not in of_log]
    return b"".join([logged, *late])[-max_events * EVENT_BYTES :]


def _events(blob: bytes) -> Sequence[bytes]:
    return [blob[at : at + EVENT_BYTES] for at in range(0, len(blob) - EVENT_BYTES + 1, EVENT_BYTES)]
