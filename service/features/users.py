"""Records of one user in Redis, read in one round trip and checked one by one.

Knows the contract's keys and packed records. A record that is damaged, of another owner or unusable for the
model is counted and treated as missing; it fails neither the request nor the records beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from redis.exceptions import ResponseError

from models.contract.events import EVENT_BYTES, EVENT_DTYPE, EventArray, unpack_history
from models.contract.keys import Keys
from models.contract.knowledge import KnowledgeRecord, RecordError, Space
from models.contract.profile import UserProfile
from service.admission import Elsewhere
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.ranking.degraded import Degraded, FeatureReadError
from service.ranking.types import UserState
from service.redis import RedisPort
from service.redis_connection import Command
from service.telemetry import Telemetry

Record = TypeVar("Record")

_STEPS = {"history": Degraded.NO_FEATURES, "profile": Degraded.NO_FEATURES, "user_knowledge": Degraded.NO_KNOWLEDGE}
"""Steps of the ladder by the kind of a record that is refused."""


@dataclass(frozen=True, slots=True, eq=False)
class RedisUserFeatures:
    """The port ``UserFeatures`` on Redis."""

    link: RedisPort
    keys: Keys
    telemetry: Telemetry

    async def fetch(
        self, user_id: str, spaces: Sequence[Space], history_length: int, deadline: Deadline, unit: str | None = None
    ) -> UserState:
        """See the port. Only the last ``history_length`` events travel, however long the history is."""
        commands: list[Command] = [
            ("GETRANGE", self.keys.user_history(user_id), -history_length * EVENT_BYTES, -1),
            ("GET", self.keys.user_profile(user_id)),
            *(("GET", self.keys.user_knowledge(user_id, space.fingerprint)) for space in spaces),
            *(() if unit is None else [("HGETALL", self.keys.unit_arms(unit))]),
        ]
        try:
            with Elsewhere():
                replies = await self.link.round_trip(commands, deadline, may_be_stale=True)
        except RedisUnavailable as error:
            raise FeatureReadError(str(error)) from error
        if any(isinstance(reply, Exception) and not _is_wrong_type(reply) for reply in replies):
            raise FeatureReadError(
                "; ".join(repr(reply) for reply in replies if isinstance(reply, Exception))
            )  # loading, out of memory, not permitted: no answer at all
        return self._state(user_id, spaces, replies)

    def _state(self, user_id: str, spaces: Sequence[Space], replies: list[Any]) -> UserState:
        history, profile, *others = replies
        stored, sticky = others[: len(spaces)], others[len(spaces) :]
        refused = Counter[str]()
        events = _events(user_id, history, refused)
        features = _unpacked("profile", profile, partial(_features, user_id), refused)
        knowledge = {}
        for space, reply in zip(spaces, stored, strict=True):
            record = _unpacked("user_knowledge", reply, partial(_record, user_id, space), refused)
            if record is not None:
                knowledge[space.fingerprint] = record
        for kind, count in refused.items():
            self.telemetry.refused_records.labels(kind).inc(count)
        return UserState(
            features=features or {},
            events=events,
            knowledge=knowledge,
            known=any(map(bool, (history, profile, *stored))),
            sticky_arms=_sticky_arms(sticky[0]) if sticky else None,
            refused=frozenset(_STEPS[kind] for kind in refused),
        )


def _unpacked(kind: str, reply: Any, unpack: Callable[[bytes], Record], refused: Counter[str]) -> Record | None:
    """The record of a reply; None if nothing is stored, or if the record must not be used, which ``refused`` notes."""
    if reply is None:
        return None
    try:
        if _is_wrong_type(reply):
            raise RecordError(f"{kind} is not a string")
        return unpack(reply)
    except RecordError:
        refused[kind] += 1
        return None


def _events(user_id: str, reply: Any, refused: Counter[str]) -> EventArray:
    if _is_wrong_type(reply):
        refused["history"] += 1
        return np.zeros(0, EVENT_DTYPE)
    events, foreign = unpack_history(user_id, reply or b"")
    # One event whose value is not a number would make every score of this user one.
    finite = np.isfinite(events["value"])
    if damaged := foreign + int((~finite).sum()):
        refused["history"] += damaged
    return events if finite.all() else events[finite]


def _features(user_id: str, blob: bytes) -> dict[str, object]:
    features = UserProfile.unpack(blob, user_id).features
    if not all(map(_is_usable, features.values())):
        raise RecordError("profile holds a number that no field can mean")
    return dict(features)


def _record(user_id: str, space: Space, blob: bytes) -> KnowledgeRecord:
    """The record if the model can take it. Of a sequence that is too long it takes the last rows."""
    record = KnowledgeRecord.unpack(blob, user_id, space.fingerprint)
    rows, dim = record.vectors.shape
    if not rows or (rows > 1 and space.rows == 1) or dim != space.dim or not np.isfinite(record.vectors).all():
        raise RecordError("knowledge is not finite vectors of the form of its space")
    return record


def _sticky_arms(reply: Any) -> dict[str, str] | None:
    """Arms by bucket; None if the reply is none that can be read."""
    if not isinstance(reply, list):
        return None
    texts = [cell.decode(errors="replace") for cell in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def _is_usable(value: object) -> bool:
    """False for numbers beyond what a float can hold; bucketing would fail on them."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return not isinstance(value, float) or math.isfinite(value)
