"""A user's profile: raw features that change rarely. One JSON value per user in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ValidationError

from models.contract.knowledge import RecordError
from models.contract.schema import FrozenConfig


class UserProfile(BaseModel):
    """Raw profile features by field name of the feature schema; the encoder decides what it understands."""

    model_config = FrozenConfig

    v: Literal[1] = 1
    owner: str
    features: Mapping[str, str | int | float | None]

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
