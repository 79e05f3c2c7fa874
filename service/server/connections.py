"""All HTTP connections of a process: the limits and the admission that they share, their number and their unfinished
bytes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol
from weakref import WeakSet

from service.admission import Admission

SWEEP_SECONDS = 0.5
"""The pause between two looks for connections that hang."""

REFUSED_AT_ONCE = 8
"""Connections beyond the limit that may wait for their refusal. Further ones are closed without an answer: each takes a
descriptor."""


LOOKED_AT = 16
"""Idle connections, the longest idle first, of which one may make way: a look costs each new connection its time."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection, and all of them together, may cost.

    ``unfinished_bytes`` is of bodies that are not complete, of all connections. Seconds count from the first byte of a
    request to the last of its head or body, ``body_seconds`` also from when a caller has more than 64 KiB of answers to
    read, or its connection is to be closed, until it has read them; ``idle_seconds`` from its opening or last answer,
    as long as nothing comes.
    """

    header_bytes: int = 16 * 1024
    headers: int = 100
    header_seconds: float = 10.0
    body_bytes: int = 4 * 1024 * 1024
    body_seconds: float = 20.0
    idle_seconds: float = 75.0  # load balancers keep a connection for 60 s, and must not meet one that is just closed
    unfinished_bytes: int = 64 * 1024 * 1024
    connections: int = 10_000


class OpenConnection(Protocol):
    """A connection as the sweep sees it."""

    def sweep(self, now: float) -> None:
        """Refuse what hangs since long before ``now``, in seconds of the monotonic clock. A connection that has said
        nothing is closed."""

    def close_if_idle(self) -> bool:
        """Close it if nothing is under way on it, nor to be read, at either end. Whether it was."""


class Connections:
    """The open connections of a process, and how many bytes of incomplete requests they hold.

    ``draining``: answers ask their callers to connect anew. ``coming`` are those that are accepted and not yet open: a
    TLS handshake takes a while, and may fail, of which nobody is told. ``on_refusal`` is called with the status of what
    is refused here, ``on_surplus`` for each connection that is too many, and ``on_sweep`` every ``SWEEP_SECONDS``.
    """

    def __init__(self, limits: ConnectionLimits, admission: Admission) -> None:
        self.limits, self.admission, self.draining = limits, admission, False
        self.on_refusal: Callable[[int], None] = lambda _: None
        self.on_surplus: Callable[[], None] = lambda: None
        self.on_sweep: Callable[[], None] = lambda: None
        self.coming: WeakSet[OpenConnection] = WeakSet()
        self._open: set[OpenConnection] = set()
        self._idle: dict[OpenConnection, None] = {}  # the order is that in which they became so
        self._surplus: set[OpenConnection] = set()
        self._unfinished_bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: OpenConnection) -> None:
        """Count a new connection. Where there is no room for it, that which has been idle for longest makes way; if
        none is idle, the new one is one too many."""
        self.coming.discard(connection)
        if self.is_full:
            self._make_room()
        surplus = len(self._open) - self.limits.connections
        self._open.add(connection)
        if surplus >= 0:
            self._surplus.add(connection)
            self.on_surplus()
        else:
            self._idle[connection] = None
        if surplus >= REFUSED_AT_ONCE:
            connection.sweep(math.inf)

    def _make_room(self) -> None:
        for connection in list(islice(self._idle, LOOKED_AT)):
            if connection.close_if_idle():
                self.discard(connection)
                self.on_surplus()
                return

    def discard(self, connection: OpenConnection) -> None:
        self._open.discard(connection)
        self._surplus.discard(connection)
        self._idle.pop(connection, None)

    def note_idle(self, connection: OpenConnection) -> None:
        """Its last request is answered."""
        if connection in self._open:
            self._idle.pop(connection, None)
            self._idle[connection] = None

    def note_busy(self, connection: OpenConnection) -> None:
        """Something has come."""
        self._idle.pop(connection, None)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another connection."""
        return len(self._open) >= self.limits.connections

    def admits(self, connection: OpenConnection) -> bool:
        """Whether it came when there was room for it."""
        return connection not in self._surplus

    def hold(self, count: int) -> bool:
        """Count bytes of an incomplete request. Whether they are few enough, with those of all others."""
        self._unfinished_bytes += count
        return self._unfinished_bytes <= self.limits.unfinished_bytes

    def release(self, count: int) -> None:
        """Count them no more."""
        self._unfinished_bytes -= count

    @contextlib.asynccontextmanager
    async def swept(self) -> AsyncIterator[None]:
        """A task looks for connections that hang as long as the context lasts."""

        async def run() -> None:
            while True:
                await asyncio.sleep(SWEEP_SECONDS)
                for connection in tuple(self._open):
                    connection.sweep(time.monotonic())
                self.on_sweep()

        task = asyncio.create_task(run(), name="connections")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
