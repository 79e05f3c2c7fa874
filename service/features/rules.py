"""Rules for feedback beyond its form, looked up in one round trip before anything is stored: how much a key may say of
one user and of all, how many users it may bring, and whether what an event answers was shown."""

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

TAKE = """
local count, most = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0'), tonumber(ARGV[3])
if count + tonumber(ARGV[2]) > most then return math.max(1, redis.call('PTTL', KEYS[1])) end
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4], 'NX')
return 0
"""
"""Counts events of a key, if there is room for them this minute: 0, or else how long the minute still takes, in ms."""

GIVE_BACK = """
local count = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
if count > 0 then redis.call('HINCRBY', KEYS[1], ARGV[1], -math.min(count, tonumber(ARGV[2]))) end
return 0
"""
"""Counts events no more. Of a minute that is over by now nothing is left to take back: no count falls below 0."""

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
        """InvalidRequest for an event that answers nothing that was shown, and for more in one call than the API key
        may tell in a minute; RateLimited for more in this minute; Unavailable without Redis.

        ``places`` stand before the fields of each interaction in messages; those of ``types`` enter the history. What
        is refused does not count, so that a caller who waits as long as it is told to is not refused again.
        """
        if self.served_seconds is not None:
            _refuse_unnamed(interactions, places)
        limited = Counter(event.user_id for event in interactions if event.type in types and key is not None)
        trip = self._trip(interactions, limited, key)
        if key is None and not trip:
            return
        replies = dict(zip(trip, await self._replies([*trip.values()], deadline), strict=True)) if trip else {}
        try:
            if self.served_seconds is not None:
                _refuse_unserved(interactions, places, _lists_of(replies, self.served_seconds))
            if key is not None:
                self._refuse_too_many(key, limited, replies, len(interactions))
        except ServiceError:
            taken = {user: count for user, count in limited.items() if replies["count", user] == 0}
            await self._give_back(key, taken, deadline)
            raise

    def _trip(self, interactions: Sequence[Interaction], limited: Mapping[str, int], key: ApiKey | None) -> _Trip:
        trip: _Trip = {}
        if key is not None:
            for user, count in limited.items():
                counts = self.keys.user_event_counts(user)
                trip["count", user] = ("EVAL", TAKE, 1, counts, key.id, count, key.user_events, MINUTE_SECONDS)
                trip["history", user] = ("EXISTS", self.keys.user_history(user))
                trip["profile", user] = ("EXISTS", self.keys.user_profile(user))
        if self.served_seconds is not None:
            for user in dict.fromkeys(event.user_id for event in interactions):
                trip["served", user] = ("LRANGE", self.keys.user_served(user), 0, -1)
        return trip

    def _refuse_too_many(
        self, key: ApiKey, limited: Mapping[str, int], replies: Mapping[tuple[str, str], Any], events: int
    ) -> None:
        waits = [replies["count", user] for user in limited]
        if max(waits, default=0) > 0:
            words = f"{key.user_events} events of one user a minute (`keys add --user-events-per-minute`)"
            if max(limited.values()) > key.user_events:  # which waiting would not change
                raise InvalidRequest(f"has more than the API key {key} may tell: {words}", field="events")
            raise RateLimited(
                f"the API key {key} may tell {words}",
                limit=key.user_events,
                seconds=MINUTE_SECONDS,
                retry_after_ms=max(waits),
            )
        if events > key.events:
            words = f"{key.events} events a minute (`keys add --events-per-minute`)"
            raise InvalidRequest(f"has more than the API key {key} may tell: {words}", field="events")
        new = sum(not replies["history", user] and not replies["profile", user] for user in limited)
        if new > key.new_users:
            words = f"{key.new_users} new users a minute (`keys add --new-users-per-minute`)"
            raise InvalidRequest(f"has more than the API key {key} may bring: {words}", field="events")
        self.access.take_feedback(key, events, new)

    async def _give_back(self, key: ApiKey | None, taken: Mapping[str, int], deadline: Deadline) -> None:
        """Take back what was counted, of what a request is refused for another reason."""
        if key is not None:
            counts = {self.keys.user_event_counts(user): count for user, count in taken.items()}
            back: list[Command] = [("EVAL", GIVE_BACK, 1, name, key.id, count) for name, count in counts.items()]
            await self._replies(back, deadline)

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
