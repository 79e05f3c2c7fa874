"""A round trip to a Redis Cluster: which of its commands are answered, and where the others are sent next."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import islice
from typing import Any

from redis.exceptions import ResponseError

from models.redis_address import Host
from service.errors import RedisUnavailable
from service.redis_connection import Command
from service.redis_slots import slot_of, without_multiple_keys

_ABSENT: Any = object()


class Mode(Enum):
    """How a node is made to take a command that it would refuse otherwise."""

    PLAIN = "plain"
    ASKING = "asking"
    """Of a slot that it is being given."""
    READONLY = "readonly"
    """A read, though it is a replica."""


class Trip:
    """The commands of a round trip, each with one key or none, by their places, and what became of them.

    unanswered  places of commands with a key that have neither a reply nor failed
    asking      nodes that are being given the slots of commands, by place
    silent      nodes that gave no answer
    reason      why the last command that failed did
    is_stuck    nobody took one of the commands: there is no use in sending it again at once
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands, self._counts = without_multiple_keys(commands)
        self.slots = [slot_of(command) for command in self.commands]
        self.unanswered = {place for place, slot in enumerate(self.slots) if slot is not None}
        self.asking: dict[int, Host] = {}
        self.silent: set[Host] = set()
        self.reason = ""
        self.is_stuck = False
        self._keyless = [place for place, slot in enumerate(self.slots) if slot is None]
        self._replies: list[Any] = [_ABSENT] * len(self.commands)

    @property
    def has_keys(self) -> bool:
        return len(self._keyless) < len(self.commands)

    def pipeline(self, places: Sequence[int], mode: Mode) -> tuple[list[Command], Sequence[int]]:
        """What to send to a node for the commands at these places, and the place of each reply, -1 of those that are
        about the connection. Commands without a key go to every node, in their place."""
        if not self._keyless and mode is Mode.PLAIN:
            return [self.commands[place] for place in places], places
        sent: list[tuple[Command, int]] = []
        for place in sorted([*places, *self._keyless]):
            if mode is Mode.ASKING and self.slots[place] is not None:
                sent.append((("ASKING",), -1))
            sent.append((self.commands[place], place))
        if mode is Mode.READONLY:  # the connection may be used when the node is a primary
            sent = [(("READONLY",), -1), *sent, (("READWRITE",), -1)]
        return [command for command, _ in sent], [place for _, place in sent]

    def answer(self, place: int, reply: Any) -> None:
        """A command's reply, or the exception in its place. Of one without a key the worst of all nodes' counts."""
        if self.slots[place] is not None:
            self.unanswered.remove(place)
        elif self._replies[place] is not _ABSENT:
            reply = _worse(self._replies[place], reply)
        self._replies[place] = reply

    def fail(self, reason: str) -> None:
        """None of the commands that are unanswered will be answered."""
        for place in [*self.unanswered]:
            self.answer(place, RedisUnavailable(self.reason or reason))

    def replies(self) -> list[Any]:
        """A reply for each of the commands that the trip was made of. RedisUnavailable if no node gave any."""
        replies = self._replies
        if _ABSENT in replies:  # a command without a key, of which every node was silent
            replies = [RedisUnavailable(self.reason) if reply is _ABSENT else reply for reply in replies]
        if isinstance(replies[0], RedisUnavailable) and all(isinstance(reply, RedisUnavailable) for reply in replies):
            raise replies[0]
        if len(self._counts) == len(replies) and not any(self._counts):
            return replies
        rest = iter(replies)
        return [next(rest) if count is None else _joined([*islice(rest, count)]) for count in self._counts]


def _worse(before: Any, reply: Any) -> Any:
    if isinstance(before, Exception) or not isinstance(reply, list):
        return before if isinstance(before, Exception) else reply
    return [min(pair) for pair in zip(before, reply, strict=True)]


def _joined(replies: list[Any]) -> Any:
    """The reply to an MGET, for which a value of another type is none. The first exception if there is another."""
    values = [None if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply) else reply for reply in replies]
    return next((value for value in values if isinstance(value, Exception)), values)
