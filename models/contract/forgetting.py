"""Tombstones: who was forgotten, and who is not to be remembered. No tombstone says an id in clear.

They lie in one hash in Redis, and jobs copy them into their work folder, so that a Redis that is lost does not bring a
user back from the source files. Whoever writes something of a user writes first and looks at the tombstones then;
whoever forgets writes the tombstone first and deletes then. So either the writer sees it, or its record is deleted.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ValidationError

from models.contract.schema import FrozenConfig

SALT, REVISION = "salt", "revision"
"""Fields of the hash that are no tombstones: 32 hexadecimal digits, random, made once; a number that grows with every
tombstone that is written."""


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


def new_salt() -> str:
    return secrets.token_hex(16)


def user_digest(salt: str, user_id: str) -> str:
    """32 hexadecimal digits by which a user's tombstone is found."""
    return hashlib.blake2b(user_id.encode(), key=bytes.fromhex(salt), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Tombstones:
    """All tombstones, by ``user_digest``. Without a salt there are none, and there never were."""

    salt: str = ""
    revision: int = 0
    of_digests: Mapping[str, Tombstone] = field(default_factory=dict)

    @classmethod
    def parse(cls, fields: Mapping[bytes, bytes]) -> Tombstones:
        """Of the fields of the hash. A tombstone that is damaged or of another version is ValueError: whom it is about
        must not be taken for somebody who may be remembered."""
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        salt, revision = texts.pop(SALT, ""), int(texts.pop(REVISION, "0"))
        try:
            return cls(salt, revision, {name: Tombstone.model_validate_json(text) for name, text in texts.items()})
        except ValidationError as error:
            raise ValueError(f"a tombstone is not understood: {error.errors()[0]['msg']}") from error

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
