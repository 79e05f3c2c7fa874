"""What Redis holds about one user, read in one round trip and checked record by record.

Knows the contract's keys and packed records. A record that is damaged, of another owner or unusable for the
model is counted and treated as missing; it fails neither the request nor the records beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from redis.exceptions import ResponseError

from models.contract.events import EVENT_BYTES, EVENT_DTYPE, EventArray, unpack_history
from models.contract.keys import Keys
from models.contract.knowledge import KnowledgeRecord, RecordError, Space
from models.contract.profile import UserProfile
from service.errors import FeatureReadError, RedisUnavailable
from service.features.redis import Command, RedisLink
from service.ranking.deadline import Deadline
from service.ranking.types import UserState
from service.telemetry import Telemetry


class RedisUserFeatures:
    """The port ``UserFeatures`` on Redis."""

    def __init__(self, link: RedisLink, keys: Keys, telemetry: Telemetry) -> None:
        self._link = link
        self._keys = keys
        self._telemetry = telemetry

    async def fetch(
        self, user_id: str, spaces: Sequence[Space], history_length: int, deadline: Deadline, unit: str | None = None
    ) -> UserState:
        """See the port. Only the last ``history_length`` events travel, however long the history is."""
        commands: list[Command] = [
            ("GETRANGE", self._keys.user_history(user_id), -history_length * EVENT_BYTES, -1),
            ("GET", self._keys.user_profile(user_id)),
            *(("GET", self._keys.user_knowledge(user_id, space.fingerprint)) for space in spaces),
            *(() if unit is None else [("HGETALL", self._keys.unit_arms(unit))]),
        ]
        try:
            replies = await self._link.round_trip(commands, deadline)
        except RedisUnavailable as error:
            raise FeatureReadError(str(error)) from error
        if any(isinstance(reply, Exception) and not _is_wrong_type(reply) for reply in replies):
            raise FeatureReadError(
                "; ".join(repr(one) for one in replies if isinstance(one, Exception))
            )  # loading, out of memory, not permitted: no answer at all
        return self._state(user_id, spaces, replies)

    def _state(self, user_id: str, spaces: Sequence[Space], replies: list[Any]) -> UserState:
        refused: set[str] = set()
        events = self._events(user_id, replies[0], refused)
        features = self._profile(user_id, replies[1], refused)
        stored = replies[2 : 2 + len(spaces)]
        records = [self._knowledge(user_id, space, reply, refused) for space, reply in zip(spaces, stored, strict=True)]
        kept = replies[2 + len(spaces) :]
        return UserState(
            features=features,
            events=events,
            knowledge={
                space.fingerprint: record for space, record in zip(spaces, records, strict=True) if record is not None
            },
            known=any(bool(reply) for reply in replies[: 2 + len(spaces)]),
            kept=_kept(kept[0]) if kept else None,
            refused=frozenset(refused),
        )

    def _events(self, user_id: str, reply: Any, refused: set[str]) -> EventArray:
        if _is_wrong_type(reply):
            self._refuse("history", "no_features", 1, refused)
            return np.zeros(0, EVENT_DTYPE)
        events, foreign = unpack_history(user_id, reply or b"")
        # One event whose value is not a number would make every score of this user one.
        finite = np.isfinite(events["value"])
        foreign += int((~finite).sum())
        if foreign:
            self._refuse("history", "no_features", foreign, refused)
        return events if finite.all() else events[finite]

    def _profile(self, user_id: str, reply: Any, refused: set[str]) -> dict[str, object]:
        if reply is None:
            return {}
        try:
            if _is_wrong_type(reply):
                raise RecordError("profile is not a string")
            features = UserProfile.unpack(reply, user_id).features
            if not all(_is_usable(value) for value in features.values()):
                raise RecordError("profile holds a number that no field can mean")
            return dict(features)
        except RecordError:
            self._refuse("profile", "no_features", 1, refused)
            return {}

    def _knowledge(self, user_id: str, space: Space, reply: Any, refused: set[str]) -> KnowledgeRecord | None:
        if reply is None:
            return None
        try:
            if _is_wrong_type(reply):
                raise RecordError("knowledge is not a string")
            record = KnowledgeRecord.unpack(reply, user_id, space.fingerprint)
            if not _fits(record, space):
                raise RecordError("knowledge is not finite vectors of the form of its space")
            return record
        except RecordError:
            self._refuse("user_knowledge", "no_knowledge", 1, refused)
            return None

    def _refuse(self, kind: str, word: str, count: int, refused: set[str]) -> None:
        self._telemetry.refused_records.labels(kind).inc(count)
        refused.add(word)


def _fits(record: KnowledgeRecord, space: Space) -> bool:
    """Whether the model can take the record. Of a sequence that is too long it takes the last rows."""
    rows, dim = record.vectors.shape
    countable = rows == 1 or (rows > 1 and space.rows > 1)
    return countable and dim == space.dim and bool(np.isfinite(record.vectors).all())


def _kept(reply: Any) -> dict[str, str] | None:
    """Arms by bucket; None if the reply is none that can be read."""
    if not isinstance(reply, list):
        return None
    texts = [one.decode(errors="replace") for one in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def _is_usable(value: object) -> bool:
    """False for numbers beyond what a float can hold; bucketing would fail on them."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return not isinstance(value, float) or math.isfinite(value)
