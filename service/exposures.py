"""Writes exposures to their capped stream, and arms that units keep, behind the back of the requests.

Knows a bounded queue and a background task. A request only ever appends to the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from itertools import chain, islice

from models.contract.exposures import Exposure
from models.contract.forgetting import Tombstones
from service.errors import RedisUnavailable
from service.forgetting.erasure import Erasure
from service.ranking.deadline import Deadline
from service.redis_connection import Command
from service.served import commands_for
from service.telemetry import Telemetry

BATCH = 200
WRITE_SECONDS = 5.0
RETRY_SECONDS = 0.5
"""Exposures per write, how long one write may take, and the pause after one that failed."""
GATHER_SECONDS = 0.01
"""How long a first exposure waits for others: a write of each by itself would cost a request more than its exposure."""

_DAY_SECONDS = 86_400

log = logging.getLogger(__name__)


class ExposureLog:
    """The port ``Exposures`` on a Redis stream. Use as an async context manager; leaving it flushes what is queued."""

    def __init__(
        self,
        erasure: Erasure,
        telemetry: Telemetry,
        *,
        capacity: int,
        stream_max: int,
        served_seconds: int | None = None,
    ) -> None:
        """``served_seconds``: how long it is remembered what was shown to whom, for feedback; None: not at all."""
        self._erasure = erasure
        self._keys = erasure.traces.keys
        self._telemetry = telemetry
        self._capacity = capacity
        self._stream_max = stream_max
        self._served_seconds = served_seconds
        self._queue: deque[tuple[Exposure, Mapping[str, tuple[str, float]]]] = deque()
        self._offered = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.failing = ""  # why the last write failed; empty while writes succeed
        self.dropped = 0

    def offer(self, exposure: Exposure, keep: Mapping[str, tuple[str, float]]) -> None:
        """See the port. When the queue is full the new exposure is dropped: those that wait are nearer to Redis."""
        if len(self._queue) >= self._capacity:
            self.lose("queue_full")
            return
        self._queue.append((exposure, keep))
        self._offered.set()

    @property
    def depth(self) -> int:
        """How many exposures wait."""
        return len(self._queue)

    async def __aenter__(self) -> ExposureLog:
        self._task = asyncio.create_task(self._run(), name="exposures")
        return self

    async def __aexit__(self, *_: object) -> None:
        # The task is asked, not cancelled: a write that is under way would otherwise be repeated below.
        self._closing.set()
        self._offered.set()
        if self._task is not None:
            await self._task
        while self._queue and await self._written():
            pass
        if self._queue:
            log.warning("%d exposures are lost, because Redis does not take them: %s", len(self._queue), self.failing)
        self.lose("shutdown", len(self._queue))
        self._queue.clear()

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._offered.wait()
            self._offered.clear()
            if len(self._queue) < BATCH <= self._capacity:
                await asyncio.sleep(GATHER_SECONDS)
            while self._queue and not self._closing.is_set():
                if not await self._written():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), RETRY_SECONDS)

    async def _written(self) -> bool:
        """``_write``, which must end neither the writer nor what is done when it stops, whatever it raises."""
        try:
            return await self._write()
        except Exception as error:
            log.exception("the exposure log failed")
            return self._failed(type(error).__name__)  # its words may be a user's

    async def _write(self) -> bool:
        """Write one batch. What was not acknowledged stays queued, so an outage shorter than the queue loses nothing;
        a batch whose acknowledgement was lost is written twice, and ``request_id`` tells."""
        judged = self._erasure.tombstones.current
        commands = self._batch(judged)
        users = {name for each, _ in islice(self._queue, len(commands)) for name in (each.user_id, each.unit)}
        try:
            whole = list(chain.from_iterable(commands))
            replies = await self._erasure.write(whole, Deadline(WRITE_SECONDS), users, judged)
        except RedisUnavailable as error:
            return self._failed(str(error))
        batch = [self._queue.popleft() for _ in commands]
        refused, reasons, at = [], [], 0
        for entry, each in zip(batch, commands, strict=True):
            added, *others = replies[at : at + len(each)]
            at += len(each)
            if isinstance(added, Exception):
                refused.append(entry)
                reasons.append(str(added))
            elif problems := [reply for reply in others if isinstance(reply, Exception)]:
                # The exposure is there: it must not be written again because what goes with it was refused.
                self._telemetry.arms_not_kept.inc(1 if entry[1] else 0)
                reasons.append(f"{'arms are' if entry[1] else 'what was shown is'} not kept: {problems[0]}")
        self._queue.extendleft(reversed(refused))
        self._telemetry.exposures_written.inc(len(batch) - len(refused))
        if reasons:
            self._failed(reasons[0])
        else:
            self.failing = ""
        return not refused

    def _batch(self, tombstones: Tombstones) -> list[list[Command]]:
        """Commands for each of the first exposures of the queue. One that cannot be written is taken out and counted:
        it would stop all others; so is one of a user who was forgotten meanwhile."""
        batch: list[list[Command]] = []
        while len(batch) < min(BATCH, len(self._queue)):
            exposure = self._queue[len(batch)][0]
            if any(tombstones.forbids(name, exposure.time_ms) for name in (exposure.user_id, exposure.unit)):
                del self._queue[len(batch)]
                self._telemetry.exposures_dropped.labels("forgotten").inc()
                continue
            try:
                batch.append(self._commands(*self._queue[len(batch)]))
            except Exception:
                log.exception("an exposure cannot be written")
                del self._queue[len(batch)]
                self.lose("invalid")
        return batch

    def _commands(self, exposure: Exposure, keep: Mapping[str, tuple[str, float]]) -> list[Command]:
        fields = [cell for pair in exposure.to_stream().items() for cell in pair]
        commands: list[Command] = [("XADD", self._keys.exposures, "MAXLEN", "~", self._stream_max, "*", *fields)]
        if keep:
            arms = self._keys.unit_arms(exposure.unit)
            # The first arm stays, whatever a request that ran at the same time came to.
            commands += [("HSETNX", arms, bucket, arm) for bucket, (arm, _) in keep.items()]
            seconds = max(int(days * _DAY_SECONDS) for _, days in keep.values())
            # Never shortened: the hash may hold arms of other experiments, which live longer.
            commands += [("EXPIRE", arms, seconds, "NX"), ("EXPIRE", arms, seconds, "GT")]
        if self._served_seconds is not None:
            commands += commands_for(self._keys, exposure, self._served_seconds)
        return commands

    def _failed(self, reason: str) -> bool:
        if not self.failing:
            log.warning("exposures cannot be written: %s", reason)
        self.failing = reason
        return False

    def lose(self, reason: str, count: int = 1) -> None:
        """See the port."""
        self.dropped += count
        self._telemetry.exposures_dropped.labels(reason).inc(count)
