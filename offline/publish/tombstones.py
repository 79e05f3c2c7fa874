"""Tombstones as the jobs know them: those in Redis and those that the work folder keeps, which outlive a Redis that
lost them; and the look that every writer of users' records takes at them.

A user is blocked for publications while a tombstone is not carried out in this work folder, whose files may still be
about them, and as long as they are opted out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.contract.forgetting import (
    NOTE,
    REVISION,
    SALT,
    Tombstone,
    Tombstones,
    TombstoneTable,
    is_salt,
    new_revision,
    new_salt,
    user_digest,
)
from offline.data.catalogue import Catalogue, DataError
from offline.data.files import read_json, write_json
from offline.data.log import is_placeholder
from offline.publish.connection import Store, StoreError
from offline.publish.records import chunks

TOMBSTONES_FILE = "tombstones.json"
"""Inside a work folder."""

WRITE = (
    NOTE
    + """
local function order(tombstone)
  local known = cjson.decode(tombstone)
  return 2 * known.forgotten_ms + (known.opted_out and 1 or 0)
end
local digests = {}
for at = 2, #ARGV, 2 do
  local former = redis.call('HGET', KEYS[1], ARGV[at])
  -- A service may have written a later one meanwhile.
  if not former or order(former) < order(ARGV[at + 1]) then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
    digests[#digests + 1] = ARGV[at]
  end
end
if #digests > 0 then note(ARGV[1], digests) end
"""
)


@dataclass(frozen=True, slots=True)
class ForgottenUsers:
    """All tombstones, the newest salt first: who was forgotten under a salt that Redis lost is known by that one still.
    ``done`` says by digest until when (unix ms) a tombstone was carried out in the work folder."""

    salts: tuple[Tombstones, ...] = ()
    done: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(tombstones.of_digests for tombstones in self.salts)

    def of(self, user_id: str) -> Tombstone | None:
        """The latest tombstone of a user, if there is one."""
        return max((tombstone for _, tombstone in self._all(user_id)), key=_order, default=None)

    def until_ms(self, user_id: str) -> int:
        """The time (unix ms) until which nothing of a user may be stored; -1 without a tombstone."""
        tombstone = self.of(user_id)
        return -1 if tombstone is None else tombstone.until_ms

    def opted_out(self, user_id: str) -> bool:
        """Whether nothing of a user may be stored."""
        tombstone = self.of(user_id)
        return tombstone is not None and tombstone.opted_out

    def pending(self, user_id: str) -> Tombstone | None:
        """A user's tombstone that is still to be carried out here."""
        every = dict(self._all(user_id))
        tombstone = max(every.values(), key=_order, default=None)
        until = max((self.done.get(digest, -1) for digest in every), default=-1)
        return tombstone if tombstone is not None and tombstone.forgotten_ms > until else None

    def blocks(self, user_id: str) -> bool:
        """Whether nothing of a user may be published."""
        if not self:
            return False
        tombstone = self.of(user_id)
        return tombstone is not None and (tombstone.opted_out or self.pending(user_id) is not None)

    @property
    def has_pending(self) -> bool:
        """Whether any tombstone is still to be carried out here."""
        every = (entry for tombstones in self.salts for entry in tombstones.of_digests.items())
        return any(tombstone.forgotten_ms > self.done.get(digest, -1) for digest, tombstone in every)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of tombstones: all, of users who opted out, and those to be carried out here."""
        every = [entry for tombstones in self.salts for entry in tombstones.of_digests.items()]
        waiting = sum(tombstone.forgotten_ms > self.done.get(digest, -1) for digest, tombstone in every)
        opted_out = sum(tombstone.opted_out for _, tombstone in every)
        return {"tombstones": len(every), "opted_out": opted_out, "waiting": waiting}

    def all_done(self) -> ForgottenUsers:
        """The same, with every tombstone carried out."""
        every = (entry for tombstones in self.salts for entry in tombstones.of_digests.items())
        return replace(self, done={digest: tombstone.forgotten_ms for digest, tombstone in every})

    def united(self, current: Tombstones) -> ForgottenUsers:
        """With the tombstones that Redis holds now. Of two of a user the later counts."""
        if not current.salt:
            return self
        former = next((tombstones for tombstones in self.salts if tombstones.salt == current.salt), Tombstones())
        others = tuple(tombstones for tombstones in self.salts if tombstones.salt != current.salt)
        later = (
            (digest, tombstone)
            for digest, tombstone in former.of_digests.items()
            if _order(tombstone) > _order(current.of_digests.get(digest, _NEVER))
        )
        merged = TombstoneTable(later, current.of_digests)
        return replace(self, salts=(Tombstones(current.salt, current.revision, merged), *others))

    def says_the_same(self, other: ForgottenUsers) -> bool:
        """Whether both have the same tombstones, whatever the revisions of Redis they were read at."""

        def contents(forgotten: ForgottenUsers) -> list[tuple[str, TombstoneTable]]:
            return [(tombstones.salt, tombstones.of_digests) for tombstones in forgotten.salts]

        return self.done == other.done and contents(self) == contents(other)

    def without(self, catalogue: Catalogue) -> Catalogue:
        """The catalogue without profiles of users who have a tombstone: a profile tells no time."""
        if not self:
            return catalogue
        users = {name: profile for name, profile in catalogue.users.items() if self.of(name) is None}
        return replace(catalogue, users=users)

    def save(self, workdir: Path) -> None:
        document = {
            "salts": [
                {"salt": tombstones.salt,
                 "tombstones": {digest: entry.model_dump() for digest, entry in tombstones.of_digests.items()}}
                for tombstones in self.salts
            ],
            "done": dict(self.done),
        }  # fmt: skip
        write_json(workdir / TOMBSTONES_FILE, document)

    @classmethod
    def load(cls, workdir: Path) -> ForgottenUsers:
        """What ``save`` wrote; nobody without a file. DataError if it is damaged: who was forgotten must not come back
        because of that."""
        path = workdir / TOMBSTONES_FILE
        if not path.is_file():
            return cls()
        document = read_json(path)
        try:
            salts = tuple(
                Tombstones(
                    part["salt"],
                    0,
                    TombstoneTable((digest, Tombstone(**entry)) for digest, entry in part["tombstones"].items()),
                )
                for part in document["salts"]
            )
            if not all(is_salt(tombstones.salt) for tombstones in salts):
                raise ValueError("a salt is damaged")
            return cls(salts, {digest: int(until) for digest, until in document["done"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path} is damaged: it says who was forgotten. Put back a copy of it, or remove it if Redis has the "
                "tombstones still"
            ) from error

    def _all(self, user_id: str) -> Iterator[tuple[str, Tombstone]]:
        for tombstones in self.salts:
            if tombstones.of_digests:
                digest = user_digest(tombstones.salt, user_id)
                if (tombstone := tombstones.of_digests.get(digest)) is not None:
                    yield digest, tombstone


class Door:
    """Whether what happened with a user at a time (unix ms) must not be stored; ``refused`` counts what was asked in
    vain. Each user's tombstone is looked for once."""

    def __init__(self, forgotten: ForgottenUsers) -> None:
        self.refused = 0
        self._forgotten = forgotten
        self._until_ms: dict[str, int] = {}

    def __call__(self, user_id: str, time_ms: int) -> bool:
        until_ms = self._until_ms.get(user_id)
        if until_ms is None:
            until_ms = self._until_ms[user_id] = self._forgotten.until_ms(user_id)
        self.refused += time_ms <= until_ms
        return time_ms <= until_ms


def stored_tombstones(store: Store) -> Tombstones:
    """The tombstones in Redis. StoreError if they cannot be told, or if one is not understood."""
    _check_type(store)
    fields: Any = store.redis.hgetall(store.keys.tombstones)
    try:
        return Tombstones.parse(fields.items())
    except ValueError as error:
        raise StoreError(f"{store.keys.tombstones}: {error}") from error


def _check_type(store: Store) -> None:
    """StoreError if something else lies where the tombstones are."""
    key = store.keys.tombstones
    kind: Any = store.redis.type(key)
    if kind not in (b"hash", b"none"):
        raise StoreError(
            f"{key} is no hash but a {kind.decode()}: put back a copy of it, or remove it (`DEL {key}`), and a job "
            f"whose work folder has {TOMBSTONES_FILE} writes its tombstones back"
        )


def forgotten_users(store: Store | None, workdir: Path) -> ForgottenUsers:
    """All tombstones that Redis or the work folder have. Changes nothing."""
    forgotten = ForgottenUsers.load(workdir)
    return forgotten if store is None else forgotten.united(stored_tombstones(store))


def write_tombstones(store: Store, tombstones: Mapping[str, Tombstone]) -> None:
    """Write tombstones by user id in place of earlier ones, under the salt of this Redis, chosen if there is none."""
    key = store.keys.tombstones
    store.redis.hsetnx(key, SALT, new_salt())
    salt: Any = store.redis.hget(key, SALT)
    _write(store, {user_digest(salt.decode(), name): tombstone for name, tombstone in tombstones.items()})


def synchronise(store: Store | None, workdir: Path, user_ids: Collection[str] = ()) -> ForgottenUsers:
    """Bring Redis and the work folder to the same tombstones, and return them.

    A Redis that lost them, or their salt or revision alone, gets them back with their salt. Where it has another salt
    meanwhile, only the tombstones of those of ``user_ids`` who have one can be written there; the others stay in the
    work folder.
    """
    forgotten = saved = ForgottenUsers.load(workdir)
    if store is not None:
        _check_type(store)
        if forgotten:
            store.redis.hsetnx(store.keys.tombstones, SALT, forgotten.salts[0].salt)
            store.redis.hsetnx(store.keys.tombstones, REVISION, new_revision())
        current = stored_tombstones(store)
        forgotten = forgotten.united(current)
        if forgotten:
            newest, *others = forgotten.salts
            lost = {
                digest: entry for digest, entry in newest.of_digests.items() if entry != current.of_digests.get(digest)
            }
            _write(store, lost)
            if any(tombstones.of_digests for tombstones in others):
                renamed = {name: entry for name in user_ids if (entry := forgotten.of(name)) is not None}
                known = {name: newest.of(name) for name in renamed}
                write_tombstones(store, {name: entry for name, entry in renamed.items() if entry != known[name]})
            forgotten = forgotten.united(stored_tombstones(store))
    if forgotten and not forgotten.says_the_same(saved):
        forgotten.save(workdir)
    return forgotten


def _write(store: Store, by_digest: Mapping[str, Tombstone]) -> None:
    for chunk in chunks(by_digest.items()):
        cells = [cell for digest, tombstone in chunk for cell in (digest, tombstone.model_dump_json())]
        store.redis.eval(WRITE, 1, store.keys.tombstones, new_revision(), *cells)


_NEVER = Tombstone(forgotten_ms=-1)


def _order(tombstone: Tombstone) -> tuple[int, bool]:
    return tombstone.forgotten_ms, tombstone.opted_out


class TombstoneWatch:
    """Who is blocked while a publication is under way. Writers write first and ``look`` then."""

    def __init__(self, store: Store, workdir: Path) -> None:
        self._store, self._workdir = store, workdir
        self._revision = self._read_revision()
        self._forgotten = forgotten_users(store, workdir)
        self._user_ids: Sequence[str] = ()
        self._blocked: frozenset[int] = frozenset()

    def blocks(self, user_id: str) -> bool:
        """Whether nothing of a user may be published."""
        return is_placeholder(user_id) or self._forgotten.blocks(user_id)

    def until_ms(self, user_id: str) -> int:
        """As of ``ForgottenUsers``."""
        return self._forgotten.until_ms(user_id)

    def allowed(self, user_ids: Sequence[str], numbers: Iterable[int]) -> list[int]:
        """Those of the ``numbers``, of users in ``user_ids``, whose records may be published."""
        if self._user_ids is not user_ids:
            self._user_ids = user_ids
            self._blocked = frozenset(at for at, name in enumerate(user_ids) if self.blocks(name))
        return [number for number in numbers if number not in self._blocked]

    def look(self, owners: Sequence[str]) -> list[int]:
        """After records of these users were written: places of those who are blocked since. The caller deletes what it
        wrote of them."""
        if (revision := self._read_revision()) == self._revision:
            return []
        self._revision = revision
        self._forgotten, self._user_ids = forgotten_users(self._store, self._workdir), ()
        return [at for at, owner in enumerate(owners) if self.blocks(owner)]

    def _read_revision(self) -> bytes | None:
        revision: Any = self._store.redis.hget(self._store.keys.tombstones, REVISION)
        return None if revision is None else bytes(revision)
