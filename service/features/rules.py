"""Rules for feedback beyond its form, looked up in one round trip before anything is stored: how much a key may say of
one user, how many users it may bring, and whether what an event answers was shown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.contract.events import Interaction
from models.contract.keys import Keys
from service.access import Access, ApiKey
from service.admission import Elsewhere
from service.errors import ErrorCode, InvalidRequest, RateLimited, RedisUnavailable, ServiceError, Unavailable
from service.ranking.deadline import Deadline
from service.redis import RedisPort, replies_to
from service.redis_connection import Command
from service.served import ServedLists

MINUTE_SECONDS = 60

_Trip = dict[tuple[str, str], Command]
"""Commands by what they ask and of whom."""


@dataclass(frozen=True, slots=True, eq=False)
class FeedbackRules:
    """The rules. Events must name a list that was shown to their user in the last ``served_seconds``, and an item in
    it; None: they need not."""

    link: RedisPort
    keys: Keys
    access: Access
    served_seconds: int | None = None

    async def check(
        self,
        interactions: Sequence[Interaction],
        places: Sequence[str],
        types: Collection[str],
        key: ApiKey | None,
        deadline: Deadline,
    ) -> None:
        """InvalidRequest for an event that answers nothing that was shown, RateLimited for more than the API key may;
        Unavailable without Redis.

        ``places`` stand before the fields of each interaction in messages; those of ``types`` enter the history. What
        is refused does not count, so that a caller who waits as long as it is told to is not refused again.
        """
        if self.served_seconds is not None:
            _refuse_unnamed(interactions, places)
        limited = Counter(event.user_id for event in interactions if event.type in types and key is not None)
        trip = self._trip(interactions, limited, key)
        if not trip:
            return
        replies = dict(zip(trip, await self._replies([*trip.values()], deadline), strict=True))
        try:
            if self.served_seconds is not None:
                _refuse_unserved(interactions, places, _lists_of(replies, self.served_seconds))
            if key is not None:
                await self._refuse_too_many(key, limited, replies, deadline)
        except ServiceError:
            await self._give_back(key, limited, deadline)
            raise

    def _trip(self, interactions: Sequence[Interaction], limited: Mapping[str, int], key: ApiKey | None) -> _Trip:
        trip: _Trip = {}
        if key is not None:
            for user, count in limited.items():
                counts = self.keys.user_event_counts(user)
                trip["count", user] = ("HINCRBY", counts, key.id, count)
                trip["end", user] = ("EXPIRE", counts, MINUTE_SECONDS, "NX")
                trip["history", user] = ("EXISTS", self.keys.user_history(user))
                trip["profile", user] = ("EXISTS", self.keys.user_profile(user))
        if self.served_seconds is not None:
            for user in dict.fromkeys(event.user_id for event in interactions):
                trip["served", user] = ("LRANGE", self.keys.user_served(user), 0, -1)
        return trip

    async def _refuse_too_many(
        self, key: ApiKey, limited: Mapping[str, int], replies: Mapping[tuple[str, str], Any], deadline: Deadline
    ) -> None:
        busiest = max(limited, key=lambda user: int(replies["count", user]), default=None)
        if busiest is not None and replies["count", busiest] > key.user_events:
            (left,) = await self._replies([("PTTL", self.keys.user_event_counts(busiest))], deadline)
            raise RateLimited(
                f"the API key {key} may tell {key.user_events} events of one user a minute "
                "(`keys add --user-events-per-minute`)",
                limit=key.user_events,
                seconds=MINUTE_SECONDS,
                retry_after_ms=max(1, left),
            )
        new = sum(not replies["history", user] and not replies["profile", user] for user in limited)
        if new:
            self.access.take_new_users(key, new)

    async def _give_back(self, key: ApiKey | None, limited: Mapping[str, int], deadline: Deadline) -> None:
        if key is None or not limited:
            return
        commands: list[Command] = []
        for user, count in limited.items():
            counts = self.keys.user_event_counts(user)
            commands += [("HINCRBY", counts, key.id, -count), ("EXPIRE", counts, MINUTE_SECONDS, "NX")]
        await self._replies(commands, deadline)

    async def _replies(self, commands: Sequence[Command], deadline: Deadline) -> list[Any]:
        try:
            with Elsewhere():
                return await replies_to(self.link, commands, deadline)
        except RedisUnavailable as error:
            raise Unavailable(
                "interactions could not be stored", code=ErrorCode.REDIS_UNAVAILABLE, retry_after_ms=1000
            ) from error


def _lists_of(replies: Mapping[tuple[str, str], Any], seconds: int) -> Mapping[str, ServedLists]:
    since_ms = int((time.time() - seconds) * 1000)
    return {user: ServedLists(reply, since_ms) for (kind, user), reply in replies.items() if kind == "served"}


def _refuse_unnamed(interactions: Sequence[Interaction], places: Sequence[str]) -> None:
    for event, place in zip(interactions, places, strict=True):
        if event.request_id is None:
            raise InvalidRequest(
                "must be there: this service takes feedback on what it has shown alone, so an event names the "
                "request_id of the ranking that it answers (LORANK_FEEDBACK_SERVED_ONLY)",
                field=f"{place}request_id",
            )


def _refuse_unserved(
    interactions: Sequence[Interaction], places: Sequence[str], lists: Mapping[str, ServedLists]
) -> None:
    for event, place in zip(interactions, places, strict=True):
        served, request_id = lists[event.user_id], event.request_id or ""
        if not served.has(request_id):
            raise InvalidRequest(
                "names no ranking that was shown to this user of late (LORANK_FEEDBACK_SERVED_SECONDS)",
                field=f"{place}request_id",
            )
        if not served.showed(request_id, event.item_id):
            raise InvalidRequest("is none of the items that this ranking showed", field=f"{place}item_id")
