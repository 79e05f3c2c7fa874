"""Redis Cluster for the service: each command to the node that has its key, over one ``RedisLink`` per node."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from models.redis_address import Host, RedisAddress
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.redis import RedisLink, RedisPort
from service.redis_connection import Command
from service.redis_slots import Shard, SlotTable, redirection
from service.redis_trip import Mode, Trip
from service.settings import Reads

TABLE_SECONDS = 60.0
"""How long a slot table is used before it is asked for again: replicas come and go without a refusal."""

SLOTS_SECONDS = 1.0
"""How long a node may take to tell who has the slots, before another one is asked."""

PAUSE_SECONDS = 0.05
"""Pause between two looks at the slots, and before a command that nobody took is sent again."""

SUSPICION_SECONDS = 1.0
"""How long a node that gave no answer is asked by reads only if no other one can be."""

HASTE_SECONDS = 0.02
"""A node that was given less time than this is not suspected."""

REDIRECTIONS = 5
"""Times that commands are sent elsewhere at once; after that reads that may be stale are given up, others wait."""

KEYS_AT_ONCE = 250
"""Keys of an MGET that are asked for at once: each is a command, and these take the event loop half a millisecond."""

log = logging.getLogger(__name__)


def open_port(url: str, connections: int, reads: Reads) -> RedisPort:
    """The Redis of a URL, as the service uses it. ValueError for a URL that cannot be."""
    if RedisAddress.parse(url).form == "cluster":
        return ClusterLink(url, connections, reads)
    return RedisLink(url, connections)


class ClusterLink:
    """The port ``RedisPort`` on a cluster. Lazy: the first round trip asks for the slots.

    MOVED and ASK are followed. While a primary gives no answer, reads that may be stale are asked of its replicas, and
    what must not be stale is sent again until the cluster has a new primary or the deadline is over.
    """

    in_order = False

    def __init__(self, url: str, connections: int, reads: Reads = "primary") -> None:
        """``connections`` round trips run at once at each node. ``reads``: of whom those that may be stale are asked
        first."""
        self._address = RedisAddress.parse(url)
        self._connections = connections
        self._reads = reads
        self._links: dict[Host, RedisLink] = {}
        self._table: SlotTable | None = None
        self._table_until, self._look_at = 0.0, 0.0
        self._look: asyncio.Task[None] | None = None
        self._suspected_until: dict[Host, float] = {}
        self._turns = itertools.count()
        self._closed = False

    async def round_trip(
        self, commands: Sequence[Command], deadline: Deadline, may_be_stale: bool = False
    ) -> list[Any]:
        """See the port."""
        if not commands:
            return []
        if any(len(command) > KEYS_AT_ONCE + 1 and command[0] == "MGET" for command in commands):
            return [await self._in_pieces(command, deadline, may_be_stale) for command in commands]
        trip = Trip(commands)
        table = await self._current_table(deadline)
        for attempt in itertools.count():
            ways = self._ways(trip, table, may_be_stale)
            # A node that hangs must leave time for asking another one.
            share = deadline.share(0.5) if attempt == 0 and table.has_replicas else deadline
            exchanges = [self._exchange(trip, node, mode, at, share) for (node, mode), at in ways.items()]
            await (exchanges[0] if len(exchanges) == 1 else asyncio.gather(*exchanges))
            if not trip.unanswered:
                break
            if deadline.spent or self._closed or (may_be_stale and attempt == REDIRECTIONS):
                trip.fail("Redis gave no answer in time")
                break
            if not may_be_stale and (trip.is_stuck or attempt >= REDIRECTIONS):
                trip.is_stuck = False
                await asyncio.sleep(min(PAUSE_SECONDS, deadline.remaining()))
            table = self._table or table
        return trip.replies()

    async def _in_pieces(self, command: Command, deadline: Deadline, may_be_stale: bool) -> Any:
        """The reply to a command that may have very many keys."""
        if command[0] != "MGET":
            return (await self.round_trip([command], deadline, may_be_stale))[0]
        values: list[Any] = []
        for start in range(1, len(command), KEYS_AT_ONCE):
            piece: Command = ("MGET", *command[start : start + KEYS_AT_ONCE])
            (reply,) = await self.round_trip([piece], deadline, may_be_stale)
            if isinstance(reply, Exception):
                return reply
            values += reply
        return values

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
            with suppress(asyncio.CancelledError):
                await self._look
        for link in self._links.values():
            await link.close()

    def _ways(self, trip: Trip, table: SlotTable, may_be_stale: bool) -> dict[tuple[Host, Mode], list[int]]:
        """Places of the unanswered commands by the node that is asked now; those fail for which no node is left."""
        if not trip.has_keys:
            return {(shard.primary, Mode.PLAIN): [] for shard in table.shards}
        ways: dict[tuple[Host, Mode], list[int]] = {}
        for place in sorted(trip.unanswered):
            shard = table.shard(trip.slots[place] or 0)
            way: tuple[Host, Mode] | None = None
            if place in trip.asking:
                way = trip.asking.pop(place), Mode.ASKING
            elif shard is not None and not may_be_stale:
                way = shard.primary, Mode.PLAIN
            elif shard is not None and (node := self._reader(shard, trip.silent)) is not None:
                way = node, Mode.PLAIN if node == shard.primary else Mode.READONLY
            if way is not None:
                ways.setdefault(way, []).append(place)
            elif may_be_stale:
                trip.answer(place, RedisUnavailable(trip.reason or "no node of the cluster has the slot of a key"))
            if way is None:
                self._look_soon()
                trip.is_stuck = True
        return ways

    def _reader(self, shard: Shard, silent: set[Host]) -> Host | None:
        """The node that a read which may be stale is asked of; None if none is left."""
        nodes = shard.nodes
        if self._reads == "replicas" and shard.replicas:
            turn = next(self._turns) % len(shard.replicas)
            nodes = (*shard.replicas[turn:], *shard.replicas[:turn], shard.primary)
        if self._suspected_until:
            now = time.monotonic()
            nodes = tuple(sorted(nodes, key=lambda node: self._suspected_until.get(node, 0.0) > now))
        return next((node for node in nodes if node not in silent), None)

    async def _exchange(self, trip: Trip, node: Host, mode: Mode, at: list[int], deadline: Deadline) -> None:
        """Send commands to a node, and note in the trip what became of each."""
        commands, places = trip.pipeline(at, mode)
        start = time.monotonic()
        try:
            replies = await self._link(node).round_trip(commands, deadline)
        except RedisUnavailable as error:
            if not (trip.reason and deadline.spent):  # the cause is what was before the time was over
                trip.reason = f"{node[0]}:{node[1]}: {error}"
            trip.is_stuck = True
            trip.silent.add(node)
            now = time.monotonic()
            if not deadline.spent or now - start > HASTE_SECONDS:
                self._suspected_until[node] = now + SUSPICION_SECONDS
            self._look_soon()
            return
        self._suspected_until.pop(node, None)
        for place, reply in zip(places, replies, strict=True):
            if place >= 0 and not (isinstance(reply, ResponseError) and self._goes_on(trip, place, node, str(reply))):
                trip.answer(place, reply)

    def _goes_on(self, trip: Trip, place: int, node: Host, refusal: str) -> bool:
        """Whether a command that a node refused is to be sent again, and if so where."""
        word = refusal.partition(" ")[0]
        if word not in ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN") or trip.slots[place] is None:
            return False
        trip.reason = refusal
        if word in ("MOVED", "ASK"):
            with suppress(ValueError):
                slot, other = redirection(refusal, node)
                if word == "ASK":
                    trip.asking[place] = other
                elif self._table is not None:
                    self._table.correct(slot, other)
                    self._look_soon()
                return True
        if word == "CLUSTERDOWN":
            trip.silent.add(node)
            self._look_soon()
        trip.is_stuck = True
        return True

    async def _current_table(self, deadline: Deadline) -> SlotTable:
        """RedisUnavailable if no node tells one in time."""
        if deadline.spent or self._closed:
            raise RedisUnavailable("no time left" if deadline.spent else "the connection is closed")
        if time.monotonic() > self._table_until:
            self._look_soon()
        if self._table is None and self._look is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._look), deadline.remaining())
        if self._table is None:
            raise RedisUnavailable("no node of the cluster tells who has the slots")
        return self._table

    def _look_soon(self) -> None:
        """Have the table asked for, behind the back of the round trips, unless that is under way."""
        if (self._look is None or self._look.done()) and not self._closed:
            self._look = asyncio.create_task(self._refresh(), name="slots")

    async def _refresh(self) -> None:
        await asyncio.sleep(max(0.0, self._look_at - time.monotonic()))
        nodes = {node: None for shard in (self._table.shards if self._table else ()) for node in shard.nodes}
        now = time.monotonic()
        every = [*(nodes | dict.fromkeys(self._address.hosts))]
        for node in sorted(every, key=lambda node: self._suspected_until.get(node, 0.0) > now):
            with suppress(RedisUnavailable):
                (reply,) = await self._link(node).round_trip([("CLUSTER", "SLOTS")], Deadline(SLOTS_SECONDS))
                table = SlotTable.of_reply(reply, node)
                if table is not None:
                    await self._install(table)
                    break
        else:
            log.warning("no node of the Redis Cluster tells who has the slots")
        self._look_at = time.monotonic() + PAUSE_SECONDS

    async def _install(self, table: SlotTable) -> None:
        self._table, self._table_until = table, time.monotonic() + TABLE_SECONDS
        nodes = {node for shard in table.shards for node in shard.nodes} | {*self._address.hosts}
        for node in self._links.keys() - nodes:
            await self._links.pop(node).close()

    def _link(self, node: Host) -> RedisLink:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = RedisLink(self._address.at(node), self._connections)
        return link
