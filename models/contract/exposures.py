"""Exposures: what was shown to whom, and on what grounds. The service logs them, the offline jobs read them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from models.contract.events import EventArray, entry_fields

How = Literal["split", "sticky", "unread", "forced", "missing"]
"""How a unit came into an arm. Only ``split`` and ``sticky`` are random, and are analysed.

``split``    by its hash
``sticky``   by the arm that was kept for it
``unread``   by its hash, because the kept arms could not be read: it may have been in another one before
``forced``   by the request or by name
``missing``  control, because there was no unit to split
"""


class ArmTaken(BaseModel):
    """Which arm of which experiment a unit is in. ``split`` says of 10,000 equally likely buckets how many each arm had
    when the unit's fell into this one; empty if it came into it in another way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    experiment: str
    arm: str
    how: How = "split"
    split: Mapping[str, int] = {}


class Exposure(BaseModel):
    """One answered request. Lists are aligned: position p holds item ``items[p]`` with ``scores[p]``.

    ``unit`` is who was split: the user, unless the request named another. ``candidates`` counts all that were ranked,
    of which ``items`` were shown. ``history_digest`` identifies the events the model saw, so that an offline replay
    knows whether it rebuilt the same user; ``item_features`` are fields that came with the request. ``knowledge`` says
    whether knowledge was used.

    shadow        scores that ``shadow_arm`` would have given to ``items``, less 1 where it would put an item behind all
                  others; empty if no arm asks, or none were made
    propensities  probability of each item at its position, given those above it; empty if the order was not drawn
    teams         the arm that each position belongs to, if two orders were interleaved
    unshown       the other candidates in their order, with scores and shadow scores, if the experiment logs all
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    request_id: str
    user_id: str
    unit: str
    time_ms: int
    release: str
    arms: tuple[ArmTaken, ...]
    held_out: bool = False
    knowledge: bool
    degraded: tuple[str, ...]
    latency_ms: float
    candidates: int
    items: tuple[str, ...]
    scores: tuple[float, ...]
    item_features: Mapping[str, Mapping[str, Any]] = {}
    context: Mapping[str, Any] = {}
    history_events: int
    history_digest: str
    shadow_arm: str = ""
    shadow: tuple[float, ...] = ()
    propensities: tuple[float, ...] = ()
    teams: tuple[str, ...] = ()
    unshown: tuple[str, ...] = ()
    unshown_scores: tuple[float, ...] = ()
    unshown_shadow: tuple[float, ...] = ()

    def to_stream(self) -> dict[str, str]:
        """Fields of the stream entry."""
        return {"v": "2", "exposure": self.model_dump_json(exclude_defaults=True)}

    @classmethod
    def from_stream(cls, fields: Mapping[Any, Any]) -> Exposure:
        """Inverse of ``to_stream``, for bytes or text; ValueError if the entry is damaged or of another version."""
        return cls.model_validate_json(entry_fields(fields, "exposure", "2").get("exposure", ""))


def history_digest(events: EventArray) -> str:
    """16 hex digits that identify a sequence of packed events."""
    return hashlib.blake2b(events.tobytes(), digest_size=8).hexdigest()
