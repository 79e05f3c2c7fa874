"""Tombstones: who was forgotten, and who is not to be remembered. No tombstone says an id in clear.

They lie in one hash in Redis, and jobs copy them into their work folder, so that a Redis that is lost does not bring a
user back from the source files. Whoever writes something of a user writes first and looks at the tombstones then;
whoever forgets writes the tombstone first and deletes then. So either the writer sees it, or its record is deleted.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ValidationError

from models.contract.schema import FrozenConfig

SALT, REVISION, CHANGES = "salt", "revision", "changes"
"""Fields of the hash that are no tombstones:

salt      32 lower-case hexadecimal digits, random, chosen once
revision  19 digits, random, others with every write, so that two hashes of one revision have the same tombstones, also
          if one of them is of a replica that missed some writes; a count in a hash that an earlier version wrote
changes   `` REVISION:DIGEST`` of the last tombstones that were written, the newest last
"""

CHANGES_AT_MOST = 256
"""Number of the last changes. Who has missed more reads all tombstones."""

NOTE = f"""
local function note(revision, digests)
  local former, changes = redis.call('HGET', KEYS[1], '{REVISION}'), redis.call('HGET', KEYS[1], '{CHANGES}') or ''
  -- Something that notes no changes wrote meanwhile, unless the last of them has the revision that is there.
  if string.match(string.sub(changes, -52), '^(%d+):') ~= former then changes = '' end
  local entries = {{}}
  for at, digest in ipairs(digests) do entries[at] = ' ' .. revision .. ':' .. digest end
  changes = string.sub(changes .. table.concat(entries), -53 * {CHANGES_AT_MOST})
  redis.call('HSET', KEYS[1], '{CHANGES}', changes, '{REVISION}', revision)
end
"""
"""Lua: the function by which every script that writes tombstones into KEYS[1] gives them a ``new_revision``."""

READ_CHANGES = f"""
local current, last, digests = redis.call('HGET', KEYS[1], '{REVISION}'), nil, nil
for revision, digest in string.gmatch(redis.call('HGET', KEYS[1], '{CHANGES}') or '', '(%d+):(%x+)') do
  last = revision
  if revision == ARGV[1] then digests = {{}} elseif digests then digests[#digests + 1] = digest end
end
local cells = {{'{REVISION}', current}}
if current == ARGV[1] then return cells end
if not digests or last ~= current then return false end
for _, digest in ipairs(digests) do
  local tombstone = redis.call('HGET', KEYS[1], digest)
  if not tombstone then return false end
  cells[#cells + 1] = digest
  cells[#cells + 1] = tombstone
end
return cells
"""
"""Lua: fields of KEYS[1] that changed since the revision ARGV[1], and their values; nil if they cannot be told. Of the
revision that is there nothing has changed, whoever wrote it."""


_RESERVED = (SALT, REVISION, CHANGES)
_SALT = re.compile("[0-9a-f]{32}")

EVERYTHING_MS = 2**53 - 1
"""A time (unix ms) that no record is later than."""


class Tombstone(BaseModel):
    """What is known of somebody who was forgotten.

    forgotten_ms  unix ms; nothing of them that is as old or older may be stored
    opted_out     nothing of them is to be stored at all: they are ranked as somebody unknown
    """

    model_config = FrozenConfig

    v: Literal[1] = 1
    forgotten_ms: int
    opted_out: bool = False

    @property
    def until_ms(self) -> int:
        """Unix ms; nothing that is as old or older may be stored."""
        return EVERYTHING_MS if self.opted_out else self.forgotten_ms


NOT_UNDERSTOOD = Tombstone(forgotten_ms=0, opted_out=True)
"""What stands for a tombstone that is damaged or of a later version: whom it is about was forgotten, and may have
opted out."""


def new_salt() -> str:
    return secrets.token_hex(16)


def is_salt(text: str) -> bool:
    """Whether it is a salt that is whole: under any other one, be it of hexadecimal digits, nobody would be known."""
    return _SALT.fullmatch(text) is not None


def new_revision() -> int:
    return 10**18 + secrets.randbelow(8 * 10**18)


def user_digest(salt: str, user_id: str) -> str:
    """32 hexadecimal digits by which a user's tombstone is found."""
    return hashlib.blake2b(user_id.encode(), key=bytes.fromhex(salt), digest_size=16).hexdigest()


class TombstoneTable(Mapping[str, Tombstone]):
    """Tombstones by ``user_digest``, with the number of those who ``opted_out``. It never changes: a later one is of
    its entries and of others, and shares the parts in which nothing changed. Each tombstone is a number in it, since
    the garbage collector would stop everything while it walks over millions of objects."""

    __slots__ = ("_parts", "_size", "opted_out")

    def __init__(self, entries: Iterable[tuple[str, Tombstone]] = (), former: TombstoneTable | None = None) -> None:
        self._parts: dict[str, dict[str, int]] = {} if former is None else dict(former._parts)
        self._size: int = 0 if former is None else former._size
        self.opted_out: int = 0 if former is None else former.opted_out
        own: set[str] = set()
        for digest, tombstone in entries:
            prefix = digest[:2]
            if prefix not in own:
                own.add(prefix)
                self._parts[prefix] = dict(self._parts.get(prefix, ()))
            part = self._parts[prefix]
            number = part.get(digest)
            self._size += number is None
            self.opted_out += tombstone.opted_out - (0 if number is None else number & 1)
            part[digest] = tombstone.forgotten_ms << 1 | tombstone.opted_out

    def __getitem__(self, digest: str) -> Tombstone:
        number = self._parts[digest[:2]][digest]
        return Tombstone(forgotten_ms=number >> 1, opted_out=bool(number & 1))

    def __iter__(self) -> Iterator[str]:
        for part in self._parts.values():
            yield from part

    def __len__(self) -> int:
        return self._size


@dataclass(frozen=True, slots=True)
class Tombstones:
    """All tombstones. Without a salt there are none, and there never were. ``not_understood``: digests of those that
    count as NOT_UNDERSTOOD."""

    salt: str = ""
    revision: int = 0
    of_digests: TombstoneTable = field(default_factory=TombstoneTable)
    not_understood: frozenset[str] = frozenset()

    @classmethod
    def parse(
        cls, fields: Iterable[tuple[bytes, bytes]], former: Tombstones | None = None, *, strict: bool = True
    ) -> Tombstones:
        """Of all fields of the hash with their values, or of those that changed since the ``former`` tombstones. A
        tombstone that is damaged or of another version is ValueError: whom it is about must not be taken for somebody
        who may be remembered. Unless it is ``strict`` it is NOT_UNDERSTOOD, and the others count. ValueError also of a
        damaged salt or revision, without which no tombstone can be told."""
        known = former or cls()
        of_hash: dict[str, str] = {}
        not_understood = set(known.not_understood)

        def entries() -> Iterator[tuple[str, Tombstone]]:
            for name, value in fields:
                if (text := name.decode(errors="replace")) in _RESERVED:
                    of_hash[text] = value.decode(errors="replace")
                    continue
                not_understood.discard(text)
                try:
                    yield text, Tombstone.model_validate_json(value)
                except ValidationError as error:
                    if strict:
                        raise ValueError(
                            f"the tombstone {text} is not understood: {error.errors()[0]['msg']}; a later version "
                            "wrote it, or it is damaged"
                        ) from error
                    not_understood.add(text)
                    yield text, NOT_UNDERSTOOD

        table = TombstoneTable(entries(), known.of_digests)
        salt, revision = of_hash.get(SALT, known.salt), of_hash.get(REVISION, known.revision)
        if salt and not is_salt(salt):
            raise ValueError(
                f"the salt of the tombstones is damaged: put back a copy of their hash, or remove its field `{SALT}`, "
                "which a job whose work folder has tombstones.json puts back"
            )
        try:
            tombstones = cls(salt, int(revision), table, frozenset(not_understood))
        except ValueError as error:
            raise ValueError(
                "the revision of the tombstones is damaged: put back a copy of their hash, or remove its field "
                f"`{REVISION}`, which a job whose work folder has tombstones.json makes anew"
            ) from error
        if table and not (tombstones.salt and tombstones.revision):
            raise ValueError("the salt or the revision of the tombstones is gone: put back a copy of their hash")
        return tombstones

    def of(self, user_id: str) -> Tombstone | None:
        """The tombstone of a user, if there is one."""
        return self.of_digests.get(user_digest(self.salt, user_id)) if self.of_digests else None

    def forbids(self, user_id: str, time_ms: int) -> bool:
        """Whether what happened with a user at a time must not be stored."""
        tombstone = self.of(user_id)
        return tombstone is not None and time_ms <= tombstone.until_ms

    def opted_out(self, user_id: str) -> bool:
        """Whether nothing of a user may be stored or read."""
        tombstone = self.of(user_id)
        return tombstone is not None and tombstone.opted_out

    def among(self, user_ids: Iterable[str]) -> dict[str, Tombstone]:
        """The tombstones of those of the users who have one."""
        return {} if not self.of_digests else {
            user_id: tombstone for user_id in user_ids if (tombstone := self.of(user_id)) is not None
        }  # fmt: skip
