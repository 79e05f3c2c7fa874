"""Forgetting a user: tombstone, deletion in Redis, and a receipt that says what is left to the jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.contract.forgetting import EVERYTHING_MS, Tombstones
from models.contract.items import ItemTable
from models.contract.request_places import writing
from models.contract.requests import JobRequest, RequestKind, RequestState
from models.contract.traces import export_document
from service.errors import InvalidRequest, RedisUnavailable, Unavailable
from service.forgetting.requests import Requests
from service.forgetting.tombstones import KnownTombstones
from service.forgetting.traces import UserTraces
from service.ranking.deadline import Deadline
from service.redis import replies_to
from service.redis_connection import Command

SWEEPS = 5
"""How often at most what is stored of a user is looked for again, while writers that do not know yet write more."""

UNLOOKED_AT_MOST = 100_000
"""Users of whom something was written and not looked at yet. While there are so many, nothing is written of anybody."""

USERS_AT_ONCE = 1000
"""Users who are looked for among the tombstones before others have their turn."""

CLOSE_SECONDS = 5.0
"""Longest duration of the last look of a service that ends."""

DISK_MS = 2000
"""Longest time that Redis may wait for disks."""

REMAINING = (
    "the next job removes the user from the interaction log, archived exposures and interactions, texts, answers, "
    "encodings, vectors, the undo journal and predictions of its work folder",
    "the source files are yours: remove the user there; until then the tombstone keeps their rows out",
    "Redis' append-only file, snapshots and blocks of its streams hold deleted bytes until the next job has them "
    "written anew, its log of slow commands and your backups until you replace them",
    "statistics of items, codebooks, factors and models were made of everybody's interactions: the next training after "
    "the removal makes them without the user",
)
"""What a receipt says of what the service cannot reach."""

IN_WORK_FOLDER = (
    "work_folder is what the jobs stored of the user at its made_ms; if it is null or too old, POST to this path asks "
    "the next refresh for it, and `python -m offline export-user FILE --user ID` writes all of this at once"
)
"""What an export says of what the service cannot see."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Erasure:
    """Forgets users. It is told when ``fsyncs`` servers have the deletion on their disks, as of feedback; 0: none."""

    traces: UserTraces
    tombstones: KnownTombstones
    requests: Requests
    fsyncs: int = 0
    _unlooked: dict[str, Tombstones] = field(default_factory=dict, init=False)
    """Users of whom something was written that is to be looked at, with the tombstones it was judged by first."""
    _looked_at: dict[str, Tombstones] = field(default_factory=dict, init=False)
    """Those of them who are being looked at now. Of a user in both, more was written meanwhile."""
    _looking: asyncio.Task[None] | None = field(default=None, init=False)

    async def watch(self) -> None:
        """Follow the tombstones, and look at what could not be looked at before, until cancelled."""
        while True:
            await self.tombstones.refresh()
            self._look()
            await asyncio.sleep(self.tombstones.poll_seconds)

    async def close(self) -> None:
        """Look once more at what was written, if it is to be looked at."""
        if (looking := self._look()) is not None:
            await asyncio.wait({looking}, timeout=CLOSE_SECONDS)
            looking.cancel()
            await asyncio.wait({looking})
        if number := self._number_unlooked():
            log.error("what was written of %d users may be of some who were forgotten meanwhile", number)

    async def forget(self, user_id: str, asked_by: str, *, opt_out: bool = False) -> JobRequest:
        """Delete all that is older than now, and with ``opt_out`` store nothing of the user from now on. The receipt,
        once Redis and all workers are clean. Unavailable if they are not; asking again goes on."""
        receipt = JobRequest.new(RequestKind.FORGET, user_id, asked_by)
        try:
            tombstone = await self.tombstones.write(user_id, receipt.asked_ms, True if opt_out else None)
            await self.requests.ask(receipt)
            # Whatever is there came before, even if it says a later time: clocks run ahead.
            others = await self.requests.remove(user_id, EVERYTHING_MS)
            removed = await self.sweep(user_id, EVERYTHING_MS)
            # By then the other workers have read the tombstone, and what they wrote before is in Redis.
            await asyncio.sleep(1.5 * self.tombstones.poll_seconds)
            for _ in range(SWEEPS):
                again = await self.sweep(user_id, tombstone.until_ms)
                removed += again
                if not again:
                    break
            else:
                raise Unavailable("records of the user are written again and again: ask again", retry_after_ms=1000)
            receipt = await self._completed(receipt, removed + Counter(requests=others))
            await self.requests.write(receipt)
            await self._on_disks(receipt)
        except RedisUnavailable as error:
            raise Unavailable(
                f"Redis did not answer, so that not all of the user may be deleted: ask again ({error})",
                retry_after_ms=1000,
            ) from error
        log.info("a user was forgotten: receipt %s", receipt.id)
        return receipt

    async def _completed(self, receipt: JobRequest, removed: Counter[str]) -> JobRequest:
        """The receipt with what was removed here, in the state that a job has given it meanwhile."""
        stored = await self.requests.read(receipt.id)
        if stored.state is RequestState.WAITING:
            return stored.changed(RequestState.WAITING, removed=dict(removed), remaining=REMAINING)
        return stored.changed(stored.state, removed=dict(removed + Counter(stored.removed)))

    async def _on_disks(self, receipt: JobRequest) -> None:
        """Wait until the deletion is on as many disks as accepted feedback is. Unavailable if it is not."""
        if not self.fsyncs or not self.traces.link.in_order:
            return
        written = writing(self.traces.keys, receipt, only_if_there=True)
        # What came before on any connection is before it in the append-only file.
        wait = ("WAITAOF", 1, self.fsyncs - 1, DISK_MS)
        _, disks = await replies_to(self.traces.link, [written, wait], Deadline(2 * DISK_MS / 1000))
        if disks[0] < 1 or disks[1] < self.fsyncs - 1:
            raise Unavailable("the user is deleted, but not on as many disks as must be: ask again")

    async def opt_in(self, user_id: str) -> None:
        """Let a user who opted out be remembered again, from now on. RedisUnavailable."""
        await self.tombstones.read()
        if self.tombstones.current.opted_out(user_id):
            await self.tombstones.write(user_id, time.time_ns() // 1_000_000, opted_out=False)

    async def sweep(self, user_id: str, until_ms: int, *, timed: bool = False) -> Counter[str]:
        """Delete what there is of a user until a time; numbers by store. ``timed``: see ``UserTraces.find``."""
        traces = await self.traces.find(user_id, until_ms, timed=timed)
        return await self.traces.delete(user_id, until_ms, traces) if traces else Counter()

    async def write(
        self, commands: Sequence[Command], deadline: Deadline, user_ids: Iterable[str], judged: Tombstones
    ) -> list[Any]:
        """As ``RedisPort.round_trip``, of commands that write something of these users, which the tombstones ``judged``
        by allowed. What they wrote is deleted again of those who were forgotten since: before the deadline, or behind
        the back of the caller, if it takes longer to find out who they are. RedisUnavailable also while that cannot be
        found out at all."""
        if self.tombstones.unreadable or len(self._unlooked) + len(self._looked_at) >= UNLOOKED_AT_MOST:
            reason = self.tombstones.unreadable or "too much is to be looked at"
            raise RedisUnavailable(f"nobody can tell who was forgotten meanwhile: {reason}")
        link, look = self.traces.link, self.tombstones.look
        try:
            if link.in_order:
                *replies, revision = await link.round_trip([*commands, look], deadline)
            else:
                replies = await link.round_trip(commands, deadline)
                (revision,) = await link.round_trip([look], deadline)
        except BaseException:
            self._note(user_ids, judged)  # it may have been written all the same
            raise
        if self.tombstones.are_others(revision, judged):
            self._note(user_ids, judged)
            if (looking := self._look()) is not None:
                await asyncio.wait({looking}, timeout=deadline.remaining())
        return replies

    def _note(self, user_ids: Iterable[str], judged: Tombstones) -> None:
        for user_id in user_ids:
            self._unlooked.setdefault(user_id, judged)

    def _number_unlooked(self) -> int:
        """Users of whom something is still to be looked at, until that is done."""
        return len(self._unlooked.keys() | self._looked_at.keys())

    def _look(self) -> asyncio.Task[None] | None:
        """The task that looks at what was written; None if there is nothing to be looked at."""
        if (self._looking is None or self._looking.done()) and self._unlooked:
            self._looking = asyncio.create_task(self._delete_forgotten(), name="forgotten meanwhile")
        return None if self._looking is None or self._looking.done() else self._looking

    async def _delete_forgotten(self) -> None:
        """Delete what was written of users who were forgotten since it was judged. What fails is left to the next
        look."""
        while self._unlooked:
            # What is written from now on is looked at in the next round: these tombstones may be read before.
            written, self._unlooked = self._unlooked, {}
            self._looked_at = written
            try:
                await self.tombstones.read()
                current = self.tombstones.current
                for number, (user_id, judged) in enumerate(list(written.items())):
                    if number % USERS_AT_ONCE == 0:
                        await asyncio.sleep(0)  # others have their turn
                    tombstone = current.of(user_id)
                    if tombstone is not None and tombstone != judged.of(user_id):
                        await self.sweep(user_id, tombstone.until_ms)
                    del written[user_id]
            except BaseException as error:
                waiting = list(written.items())
                self._looked_at = {}
                self._unlooked |= dict(waiting[1:] + waiting[:1])  # who fails again must not keep others waiting
                if not isinstance(error, (RedisUnavailable, ValueError)):
                    raise
                if not self.tombstones.error:  # which would be said each time
                    log.warning("what was written of users is looked at later: %s", error)
                return

    async def receipt(self, request_id: str) -> tuple[JobRequest, dict[str, int]]:
        """A request, and what is found of its user now that should not be there, which is deleted again; numbers by
        store. Nothing but for a forgotten user."""
        request = await self.requests.read(request_id)
        if request.kind is not RequestKind.FORGET or request.user_id is None:
            return request, {}
        tombstone = self.tombstones.current.of(request.user_id)
        until_ms = request.asked_ms if tombstone is None else tombstone.until_ms
        # Once the jobs have removed the user, profile and knowledge are of what came later.
        returned = await self.sweep(request.user_id, until_ms, timed=request.state is RequestState.DONE)
        others = await self.requests.remove(request.user_id, request.asked_ms)
        return request, dict(returned + Counter(requests=others))

    def status(self) -> dict[str, Any]:
        """For ``/v1/status``."""
        table = self.tombstones.current.of_digests
        return {
            "tombstones": len(table),
            "opted_out": table.opted_out,
            "not_understood": len(self.tombstones.current.not_understood),
            "unlooked": self._number_unlooked(),
            "error": self.tombstones.error or None,
        }

    async def export(self, user_id: str, table: ItemTable | None) -> dict[str, Any]:
        """All that Redis holds of a user, readable, and what the jobs last told of their work folder."""
        stored = self.traces.document(await self.traces.find(user_id, EVERYTHING_MS), user_id, table)
        return export_document(user_id, self.tombstones.current.of(user_id), stored, IN_WORK_FOLDER)

    async def ask(self, request: JobRequest) -> JobRequest:
        """As ``Requests.ask``. InvalidRequest for one to close a partition of a user who opted out, of whom there is
        none. An export is asked for by whoever has a right to know that nothing is stored, and the next refresh removes
        the request."""
        user_id = request.user_id
        if request.kind is RequestKind.CLOSE_PARTITION and user_id is not None:
            await self.tombstones.refresh()
            if self.tombstones.current.forbids(user_id, request.asked_ms):
                raise InvalidRequest(
                    "nothing of this user is to be stored, so there is no partition to close: PUT "
                    "/v1/users/{id}/opt-in ends that",
                    field="user_id",
                )
        return await self.requests.ask(request)
