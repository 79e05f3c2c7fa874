"""One producer's knowledge within the live release: written, held back, and taken back alone.

A producer that was rolled back is held: publications leave its records as they are, renew their expiries, and say so,
until somebody asks for its return. A hold is of spaces: when the producer makes a new space, for a new model, nothing
is held of that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from models.contract.keys import owners_of
from models.contract.knowledge import Space
from offline.config import JobConfig
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Produced, UserVectors
from offline.publish import release
from offline.publish.bulk import Bulk, RedisCommand
from offline.publish.connection import Store
from offline.publish.knowledge import GRACE_SECONDS, KnowledgeWriter, content_digest, entries, owners, restamped, times
from offline.publish.records import WRITE_CACHE_FOLDER, ItemChanges, WriteCache, Written, forget
from offline.publish.release import SwitchError
from offline.publish.tombstones import TombstoneWatch
from offline.publish.undo import JOURNAL_FILE, Journal

_LONGEST_LIST = 100
"""Spaces that are held back, at most."""


@dataclass(frozen=True, slots=True)
class KnowledgePublication:
    """One publication of knowledge of a log's users and items, with the files of its work folder."""

    store: Store
    log: InteractionLog
    ttl_seconds: int
    write_cache: WriteCache
    journal: Journal
    watch: TombstoneWatch

    def write(self, name: str, produced: Produced, users: Collection[int] | None) -> dict[str, Written]:
        """Write the records of one producer that changed, counted by "user/liber" and the like; of ``users`` only, if
        that is given.

        Changes are journaled if the live release reads the producer's spaces. The first fill of a new space is not: it
        is rolled back by rolling back its release.
        """
        store, log, spaces = self.store, self.log, spaces_of(produced.spaces)
        is_held = bool(held_of(store, produced.spaces))
        undo = None
        if not is_held and served(store, name) == spaces:
            undo = self.journal.publication(store, name, spaces)
        records = {}
        for vectors in (produced.users, produced.items):
            if vectors is None:
                continue
            ids = log.user_ids if isinstance(vectors, UserVectors) else log.item_ids
            numbers = owners(vectors, ids, users if isinstance(vectors, UserVectors) else None)
            if isinstance(vectors, UserVectors):
                numbers = self._allowed(vectors.space, numbers)
            writer = KnowledgeWriter(store, vectors.space, self.ttl_seconds, self.write_cache, self.watch)
            records[vectors.space.key] = (
                writer.renew(ids[number] for number in numbers)
                if is_held
                else writer.write(entries(vectors, ids, numbers), len(ids), undo)
            )
        if undo is not None:
            undo.close()
        return records

    def renew(self, space: Space, users: Collection[int] | None) -> Written:
        """Let the records of a space that is made no more live on, those of ``users`` only, if that is given."""
        ids = self.log.user_ids if space.side == "user" else self.log.item_ids
        chosen: Iterable[int] = range(len(ids)) if users is None or space.side == "item" else sorted(set(users))
        if space.side == "user":
            chosen = self._allowed(space, chosen)
        writer = KnowledgeWriter(self.store, space, self.ttl_seconds, self.write_cache, self.watch)
        return writer.renew(ids[number] for number in chosen)

    def _allowed(self, space: Space, numbers: Iterable[int]) -> list[int]:
        """Those of the users who may have records, which are about to be written in a space: whoever forgets them finds
        it listed."""
        self.store.redis.sadd(self.store.keys.user_spaces, space.fingerprint)
        return self.watch.allowed(self.log.user_ids, numbers)


@contextmanager
def knowledge_publication(store: Store, config: JobConfig, log: InteractionLog) -> Iterator[KnowledgePublication]:
    """A publication under way; the write cache is saved if all goes well."""
    with Journal(config.workdir / JOURNAL_FILE) as journal:
        write_cache, ttl = (
            WriteCache(store, config.workdir / WRITE_CACHE_FOLDER),
            round(config.knowledge.ttl_days * 86_400),
        )
        watch = TombstoneWatch(store, config.workdir)
        yield KnowledgePublication(store, log, ttl, write_cache, journal, watch)
        write_cache.save()


@dataclass(slots=True)
class RolledBack:
    """The effect of a rollback on the records that a producer's last publication had changed.

    ``restored`` say again what they said before; ``removed`` were new then; ``left`` were changed by somebody since,
    or are gone, and stay so.
    """

    release: str
    spaces: tuple[str, ...]
    restored: int = 0
    removed: int = 0
    left: int = 0
    size: int = 0


def rollback_producer(
    store: Store,
    journal: Journal,
    name: str,
    end_change: Callable[[str, bool], None],
    watch: TombstoneWatch | None = None,
) -> RolledBack:
    """Take back what the producer's last publication changed in the live release, and hold the producer.

    Again: take back the publication before that one. One that is killed is completed by the next call. The caller has
    the work folder to itself. ``end_change`` is told the live release, and whether its items changed. What was of
    users who are forgotten, as the ``watch`` tells, does not come back. SwitchError if there is nothing to go back to.
    """
    live = release.live_release(store)
    if live is None:
        raise SwitchError("nothing is live yet")
    spaces = served(store, name)
    if not spaces:
        raise SwitchError(f"release {live} reads no knowledge of {name!r}")
    publication = journal.to_undo(store, name, spaces)
    if publication is None:
        raise SwitchError(
            f"no publication of {name!r} to take back: since its spaces are live, the undo journal holds none "
            "(to leave the spaces themselves, roll back the release)"
        )
    hold(store, spaces)  # first: a refresh between a killed rollback and the next must not write
    journal.begin_undo(publication)
    interrupted = release.begin_change(store, live)
    forget(store)
    result = RolledBack(live, tuple(spaces))
    item_changes = {space: ItemChanges(store, space) for key, space in spaces.items() if key.startswith("item/")}
    user_spaces = [space for key, space in spaces.items() if key.startswith("user/")]
    for chunk in journal.changes(publication):
        for space, changes in item_changes.items():
            changes.about_to_write(owners_of([key for key, _, _ in chunk], store.keys.item_knowledge("", space)))
        _restore(store, chunk, result)
        if watch is not None:
            for space in user_spaces:
                _delete_forgotten(store, watch, [key for key, _, _ in chunk], space)
    changed = interrupted or (bool(item_changes) and result.restored + result.removed > 0)
    end_change(live, changed)
    journal.undone(publication)
    return result


def _delete_forgotten(store: Store, watch: TombstoneWatch, keys: Sequence[str], space: str) -> None:
    """Delete those of the records just restored that are of users who were forgotten."""
    users = owners_of(keys, store.keys.user_knowledge("", space))
    watch.look(users)
    with Bulk(store.redis) as bulk:
        bulk.delete([store.keys.user_knowledge(user, space) for user in users if watch.blocks(user)])


def _restore(store: Store, chunk: list[tuple[str, bytes | None, bytes]], result: RolledBack) -> None:
    """Put back what Redis still holds as it was written. A restored record has at least half of its life before it."""
    now = int(time.time())
    commands: list[RedisCommand] = []
    with Bulk(store.redis) as bulk:
        replies = bulk.get([key for key, _, _ in chunk])
    for (key, old, new), reply in zip(chunk, replies, strict=True):
        holds = None if reply is None else content_digest(reply)
        if holds == (None if old is None else content_digest(old)):
            # A rollback that was killed got so far, or a publication that was killed did not.
            result.restored, result.removed = result.restored + (old is not None), result.removed + (old is None)
        elif holds != new:
            result.left += 1
        elif old is None:
            commands.append(("DEL", key))
            result.removed += 1
        else:
            written_at, expires_at = times(old)
            life = expires_at - written_at
            if expires_at < now + life // 2:
                old, expires_at = restamped(old, now, now + life), now + life
            commands.append(("SET", key, old, "EXAT", expires_at + GRACE_SECONDS))
            result.restored += 1
            result.size += len(old)
    with Bulk(store.redis) as bulk:
        bulk.ask(commands)


def spaces_of(spaces: Iterable[Space]) -> dict[str, str]:
    """Fingerprints by "user/liber" and the like, as a release's manifest has them."""
    return {space.key: space.fingerprint for space in spaces}


def served(store: Store, name: str) -> dict[str, str]:
    """The spaces of a producer that the live release reads; empty if it reads none, or is not understood."""
    live = release.live_release(store)
    manifest = None if live is None else release.manifest_or_none(store, live)
    spaces = {} if manifest is None else manifest.spaces
    return {key: space for key, space in spaces.items() if key.partition("/")[2] == name}


def rolled_back(store: Store) -> list[str]:
    """The spaces that somebody rolled back: "user/liber:FINGERPRINT"."""
    return release.stored_list(store, store.keys.rolled_back)


def hold(store: Store, spaces: Mapping[str, str]) -> None:
    """Let publications leave the records of these spaces alone, until ``let_go``."""
    before = rolled_back(store)
    added = [mark for mark in _marks(spaces) if mark not in before]
    if added:
        store.redis.set(store.keys.rolled_back, json.dumps([*before, *added][-_LONGEST_LIST:]))


def let_go(store: Store, spaces: Mapping[str, str]) -> None:
    """The counterpart of ``hold``."""
    before = rolled_back(store)
    left = [mark for mark in before if mark not in _marks(spaces)]
    if left != before:
        store.redis.set(store.keys.rolled_back, json.dumps(left))


def held_of(store: Store, spaces: Iterable[Space]) -> list[str]:
    """Keys, like "user/liber", of the ``spaces`` whose records are held back."""
    marks = rolled_back(store)
    return [space.key for space in spaces if f"{space.key}:{space.fingerprint}" in marks]


def _marks(spaces: Mapping[str, str]) -> list[str]:
    return [f"{key}:{space}" for key, space in spaces.items()]
