"""Exposures: what was shown to whom, and on what grounds. The service logs them, the offline jobs read them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.contract.events import EventArray


class Exposure(BaseModel):
    """One answered request. Lists are aligned: position p holds item ``items[p]`` with ``scores[p]``.

    ``history_digest`` identifies the events the model saw, so that an offline replay knows whether it rebuilt the
    same user; ``item_features`` are fields that came with the request. ``knowledge`` says whether knowledge was used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    request_id: str
    user_id: str
    time_ms: int
    release: str
    arms: Mapping[str, str]
    knowledge: bool
    degraded: tuple[str, ...]
    items: tuple[str, ...]
    scores: tuple[float, ...]
    item_features: Mapping[str, Mapping[str, Any]] = {}
    history_events: int
    history_digest: str

    def to_stream(self) -> dict[str, str]:
        """Fields of the stream entry."""
        return {"v": "1", "exposure": self.model_dump_json()}

    @classmethod
    def from_stream(cls, fields: Mapping[Any, Any]) -> Exposure:
        """Inverse of ``to_stream``, for bytes or text; ValueError if the entry is of another version."""
        decoded = {_text(key): _text(value) for key, value in fields.items()}
        if decoded.get("v") != "1":
            raise ValueError(f"exposure entry of unknown version {decoded.get('v')!r}")
        return cls.model_validate_json(decoded["exposure"])


def history_digest(events: EventArray) -> str:
    """16 hex digits that identify a sequence of packed events."""
    return hashlib.blake2b(events.tobytes(), digest_size=8).hexdigest()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
