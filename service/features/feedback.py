"""Accepts interactions: into the stream that the offline jobs read, and into the live history of the user.

Knows one Lua script. The stream comes first: a history without its stream entry would never be trained on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, ResponseError

from models.contract.events import EVENT_BYTES, Interaction
from models.contract.forgetting import Tombstones
from models.contract.keys import Keys
from service.admission import Elsewhere
from service.errors import ErrorCode, RedisUnavailable, Unavailable
from service.forgetting.erasure import Erasure
from service.ranking.deadline import Deadline
from service.redis import RedisPort
from service.redis_connection import Command
from service.telemetry import Telemetry

RETRY_WINDOW = 200
"""How many of the last events are searched for an equal one, so that a retried request changes nothing."""

OVERHANG = 8
"""An ``OVERHANG``-th of the longest history may come on top of it before it is cut back: a cut writes the whole history
into Redis' append-only file, which a full one would else cost with every event."""

WAIT_SHARE = 0.4
"""Share of the time left that Redis may wait for disks: its answer must come before it is taken for lost, half-way."""

APPEND = f"""
local event, size = ARGV[1], {EVENT_BYTES}
local length = redis.call('STRLEN', KEYS[1])
if length % size ~= 0 then
  -- A torn tail would shift every later event out of its frame; keep what is whole.
  redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, length - length % size))
  length = length - length % size
end
local recent = redis.call('GETRANGE', KEYS[1], math.max(0, length - size * {RETRY_WINDOW}), -1)
local at = string.find(recent, event, 1, true)
while at do
  if at % size == 1 then return 0 end
  at = string.find(recent, event, at + 1, true)
end
length = redis.call('APPEND', KEYS[1], event)
local most, life_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
if length > (most + math.floor(most / {OVERHANG})) * size then
  redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], length - most * size, -1), 'KEEPTTL')
end
if life_ms > 0 then redis.call('PEXPIRE', KEYS[1], life_ms) end
return 1
"""

log = logging.getLogger(__name__)

_DIGEST = hashlib.sha1(APPEND.encode(), usedforsecurity=False).hexdigest()


class _About(NamedTuple):
    """The users that commands are about, and the tombstones that allowed it."""

    users: Collection[str]
    judged: Tombstones


@dataclass(frozen=True, slots=True, eq=False)
class RedisFeedback:
    """Interactions on their way into Redis. They are accepted when ``fsyncs`` servers have them on their disks, the
    primary first; 0 waits for none. A history ends ``history_days`` after its last event; 0: never."""

    erasure: Erasure
    telemetry: Telemetry
    history_max_events: int
    stream_max: int
    fsyncs: int = 0
    history_days: float = 0.0

    @property
    def link(self) -> RedisPort:
        return self.erasure.traces.link

    @property
    def keys(self) -> Keys:
        return self.erasure.traces.keys

    async def accept(
        self,
        interactions: Sequence[Interaction],
        types: Sequence[str],
        deadline: Deadline,
        judged: Tombstones | None = None,
    ) -> None:
        """Record interactions; those of ``types`` are in the live history on return, others go to the stream only.
        Unavailable without Redis. ``judged``: the tombstones that allowed them; None: those known now."""
        if not interactions:
            return
        about = _About(
            {event.user_id for event in interactions}, self.erasure.tombstones.current if judged is None else judged
        )
        appends = [self._append(event) for event in interactions if event.type in types]
        entries = [self._publish(event) for event in interactions]
        try:
            if self.link.in_order:
                replies = await self._confirmed([*entries, *appends], about, deadline)
            else:
                _refuse_failures(await self._confirmed(entries, about, deadline))
                replies = await self._confirmed(appends, about, deadline)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                # Redis was restarted since the script was registered. The stream entries are already acknowledged,
                # so only the appends are sent again, behind the script.
                _refuse_failures(replies[: -len(appends)])
                replies = await self._confirmed([("SCRIPT", "LOAD", APPEND), *appends], about, deadline)
        except RedisUnavailable as error:
            raise _unavailable() from error
        _refuse_failures(replies)
        for event in interactions:
            # The type is the caller's free text; only types the model knows may become a label.
            self.telemetry.interactions.labels(event.type if event.type in types else "other").inc()

    async def _confirmed(self, commands: Sequence[Command], about: _About, deadline: Deadline) -> list[Any]:
        """Replies to commands about users, whose effects are on as many disks as was asked for. Unavailable if they are
        not; what was acknowledged stays done."""
        if not self.fsyncs or not commands:
            with Elsewhere():
                return await self.erasure.write(commands, deadline, about.users, about.judged)
        milliseconds = max(1, int(deadline.remaining() * 1000.0 * WAIT_SHARE))
        wait: Command = ("WAITAOF", 1, self.fsyncs - 1, milliseconds)
        with Elsewhere():
            *replies, disks = await self.erasure.write([*commands, wait], deadline, about.users, about.judged)
        if isinstance(disks, ResponseError):
            log.error("Redis does not tell what is on its disk: %s", disks)
            raise _unavailable(
                f"Redis does not tell what is on its disk ({disks}): LORANK_FEEDBACK_FSYNCS needs Valkey or Redis 7.2 "
                "with appendonly yes"
            ) from disks
        _refuse_failures([disks])
        if disks[0] < 1 or disks[1] < self.fsyncs - 1:
            raise _unavailable("interactions are stored, but not on as many disks as they must be")
        return replies

    def _publish(self, event: Interaction) -> Command:
        fields = [cell for pair in event.to_stream().items() for cell in pair]
        return ("XADD", self.keys.interactions, "MAXLEN", "~", self.stream_max, "*", *fields)

    def _append(self, event: Interaction) -> Command:
        life_ms = round(self.history_days * 86_400_000)
        history = self.keys.user_history(event.user_id)
        return ("EVALSHA", _DIGEST, 1, history, event.pack(), self.history_max_events, life_ms)


def _refuse_failures(replies: list[Any]) -> None:
    failures = [reply for reply in replies if isinstance(reply, Exception)]
    if failures:
        raise _unavailable() from failures[0]


def _unavailable(message: str = "interactions could not be stored") -> Unavailable:
    return Unavailable(message, code=ErrorCode.REDIS_UNAVAILABLE, retry_after_ms=1000)
