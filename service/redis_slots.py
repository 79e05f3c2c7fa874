"""Who has which slots of a Redis Cluster, and which slot a command is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from models.redis_address import Host
from service.redis_connection import Command

KEYLESS = frozenset({"SCRIPT", "WAITAOF"})
"""Commands without a key."""

_BEHIND_A_SCRIPT = frozenset({"EVAL", "EVALSHA"})
"""Commands whose key is the third argument."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A primary and its replicas."""

    primary: Host
    replicas: tuple[Host, ...] = ()

    @property
    def nodes(self) -> tuple[Host, ...]:
        return (self.primary, *self.replicas)


class SlotTable:
    """The shard of each slot, as a node of the cluster last told it, and as refusals have corrected it since."""

    def __init__(self, shards: Iterable[tuple[int, int, Shard]]) -> None:
        """``shards`` with their first and last slot."""
        self._of_slot: list[Shard | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self.shards: set[Shard] = set()
        for first, last, shard in shards:
            self._of_slot[first : last + 1] = [shard] * (last + 1 - first)
            self.shards.add(shard)
        self.has_replicas = any(shard.replicas for shard in self.shards)

    @classmethod
    def of_reply(cls, reply: Any, asked: Host) -> SlotTable | None:
        """The table in a reply to CLUSTER SLOTS of the node ``asked``; None if it is none, or names no slot."""
        try:
            shards = [
                (int(first), int(last), Shard(_host(primary, asked), tuple(_host(node, asked) for node in replicas)))
                for first, last, primary, *replicas in reply
            ]
        except (TypeError, ValueError, LookupError, AttributeError):
            return None
        fits = all(0 <= first <= last < REDIS_CLUSTER_HASH_SLOTS for first, last, _ in shards)
        return cls(shards) if shards and fits else None

    def shard(self, slot: int) -> Shard | None:
        """None if nobody has the slot."""
        return self._of_slot[slot]

    def correct(self, slot: int, primary: Host) -> None:
        """``primary`` has the slot now."""
        shard = next((shard for shard in self.shards if shard.primary == primary), Shard(primary))
        self._of_slot[slot] = shard
        self.shards.add(shard)


def slot_of(command: Command) -> int | None:
    """The slot of the command's first key; None of a command without one."""
    name = command[0]
    if name in KEYLESS:
        return None
    key = command[3 if name in _BEHIND_A_SCRIPT else 1]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def redirection(refusal: str, asked: Host) -> tuple[int, Host]:
    """Slot and node of a MOVED or ASK that the node ``asked`` gave. ValueError if there is none in it."""
    _, slot, address = refusal.split(" ")[:3]
    name, _, port = address.rpartition(":")
    return int(slot), (name.strip("[]") or asked[0], int(port))


def without_multiple_keys(commands: Sequence[Command]) -> tuple[list[Command], list[int | None]]:
    """The commands with a GET for each key in place of an MGET; for each command the number of these, None if it is no
    MGET."""
    single: list[Command] = []
    counts: list[int | None] = []
    for command in commands:
        if command[0] == "MGET":
            single += [("GET", key) for key in command[1:]]
            counts.append(len(command) - 1)
        else:
            single.append(command)
            counts.append(None)
    return single, counts


def _host(node: Sequence[Any], asked: Host) -> Host:
    """A node in a reply to CLUSTER SLOTS. One whose name is unknown is where the node that was asked is."""
    name = (node[0] or b"").decode()
    return (name if name not in ("", "?") else asked[0]), int(node[1])
