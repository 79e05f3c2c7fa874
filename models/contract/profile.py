"""A user's profile: raw features that change rarely. One JSON value per user in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from models.contract.knowledge import RecordError
from models.contract.schema import FrozenConfig

Features = Mapping[str, str | int | float | None]

_PLAIN = {str, int, type(None)}


class UserProfile(BaseModel):
    """Raw profile features by field name of the feature schema; the encoder decides what it understands."""

    model_config = FrozenConfig

    v: Literal[1] = 1
    owner: str
    features: Features

    def pack(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def unpack(cls, blob: bytes, owner: str) -> UserProfile:
        """Inverse of ``pack``; RecordError unless it is whole and belongs to ``owner``."""
        try:
            profile = cls.model_validate_json(blob)
        except ValidationError as error:
            raise RecordError(f"profile of {owner!r} is damaged") from error
        if profile.owner != owner:
            raise RecordError("profile belongs to another owner")
        return profile


def packed_profile(owner: str, features: Features) -> bytes:
    """``UserProfile(owner=owner, features=features).pack()``, without pydantic where nothing can be wrong: texts, whole
    numbers and nothing are what they are. A third of the time."""
    plain = type(features) is dict and {str}.issuperset(map(type, features))
    if plain and type(owner) is str and _PLAIN.issuperset(map(type, features.values())):
        return to_json({"v": 1, "owner": owner, "features": features})
    return UserProfile(owner=owner, features=features).pack()
