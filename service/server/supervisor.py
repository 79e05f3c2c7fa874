"""Several processes that answer on one port, kept alive by one that answers nothing.

A worker is well while its event loop turns: it notes the time in shared memory ten times a second, from when it is
ready, or waits for a release. One that ends or stands still is replaced, later and later if that fails again; others
are never stopped for it.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any

log = logging.getLogger(__name__)

START_SECONDS = 300.0
"""Time until a worker has to be ready: imports and releases take long beside busy neighbours."""

STILL_SECONDS = 30.0
"""Time for which the event loop of a worker may stand still before it is replaced."""

STOP_SECONDS = 15.0
"""Time after its drain in which a worker has to end by itself, unless it is told another."""

WATCH_SECONDS = 0.2
_LONGEST_PAUSE = 30.0
_STATE = struct.Struct("d??")

_SPAWN = multiprocessing.get_context("spawn")


class WorkerState:
    """What the worker of a place notes for its supervisor and for the other workers, in memory that all of them share.
    The memory has no file: /dev/shm may be small, absent or read-only.

    ``turned``       moment of the monotonic clock at which the worker's event loop turned last; 0 before that
    ``is_ready``     whether it takes requests
    ``has_release``  whether it has a release to answer from
    """

    def __init__(self, place: int, count: int, descriptor: int | None = None) -> None:
        """Of the place of that number, of ``count``; memory of its own unless a ``descriptor`` leads to some."""
        self._place, self._count = place, count
        self._descriptor = os.memfd_create("workers") if descriptor is None else descriptor
        os.ftruncate(self._descriptor, count * _STATE.size)
        self._memory = mmap.mmap(self._descriptor, count * _STATE.size)

    @classmethod
    def of_all(cls, count: int) -> list[WorkerState]:
        """The states of all places, in one memory."""
        first = cls(0, count)
        return [first, *(cls(place, count, first._descriptor) for place in range(1, count))]

    def __reduce__(self) -> tuple[Any, ...]:
        """To a worker that is being started."""
        return _of_parent, (self._place, self._count, DupFd(self._descriptor))

    @property
    def turned(self) -> float:
        return self._read(self._place)[0]

    @property
    def is_ready(self) -> bool:
        return bool(self._read(self._place)[1])

    @property
    def others_have_release(self) -> bool:
        """Whether another worker takes requests and has a release."""
        return any(all(self._read(place)[1:]) for place in range(self._count) if place != self._place)

    def note(self, *, is_ready: bool, has_release: bool = False) -> None:
        """The event loop turns."""
        _STATE.pack_into(self._memory, self._place * _STATE.size, time.monotonic(), is_ready, has_release)

    def forget(self) -> None:
        """The worker has ended."""
        _STATE.pack_into(self._memory, self._place * _STATE.size, 0.0, False, False)

    def _read(self, place: int) -> tuple[float, bool, bool]:
        turned, is_ready, has_release = _STATE.unpack_from(self._memory, place * _STATE.size)
        return turned, is_ready, has_release


def _of_parent(place: int, count: int, duplicate: Any) -> WorkerState:
    return WorkerState(place, count, duplicate.detach())


Target = Callable[[socket.socket, WorkerState], None]
"""What a worker runs: with the socket, and the state that it notes."""


@dataclass(slots=True)
class Worker:
    """One of the processes."""

    process: BaseProcess
    state: WorkerState
    started: float

    @property
    def was_ready(self) -> bool:
        return self.state.is_ready

    def fault(self, now: float) -> str:
        """What is wrong with it, "" if nothing is."""
        if self.process.exitcode is not None:
            return f"ended with status {self.process.exitcode}"
        if not self.state.turned:
            return "" if now - self.started < START_SECONDS else f"was not ready in {START_SECONDS:g} s"
        still = now - self.state.turned
        return "" if still < STILL_SECONDS else f"has stood still for {still:.0f} s"


@dataclass
class Place:
    """Where a worker is, or will be at ``due``; ``failures`` in a row, without one that was ready."""

    state: WorkerState
    worker: Worker | None = None
    due: float = 0.0
    failures: int = 0

    def postpone(self) -> float:
        """Seconds until it is due, from now; longer with each failure."""
        pause = min(_LONGEST_PAUSE, 2.0**self.failures - 1.0)
        self.due = time.monotonic() + pause
        return pause


@dataclass
class Supervisor:
    """Runs ``count`` workers on ``listening`` until it is told to stop. They drain for ``drain_seconds`` then, and have
    ``stop_seconds`` after it to end by themselves."""

    target: Target
    listening: socket.socket
    count: int
    drain_seconds: float
    stop_seconds: float = STOP_SECONDS
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> bool:
        """Whether a worker was ever ready. Ends after SIGTERM and SIGINT, or if all workers ended and none was."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        places = [Place(state) for state in WorkerState.of_all(self.count)]
        served = False
        while not self._stop.is_set():
            now = time.monotonic()
            for place in places:
                if place.worker is None and place.due <= now:
                    self._start(place)
                elif place.worker is not None and (fault := place.worker.fault(now)):
                    self._replace(place, fault)
                elif place.worker is not None and place.worker.was_ready:
                    served, place.failures = True, 0
            if not served and all(place.worker is None for place in places):
                break  # it is not the worker but what all of them need
            self._stop.wait(WATCH_SECONDS)
        workers = [place.worker for place in places if place.worker is not None]
        self._end(workers)
        return served or any(worker.was_ready for worker in workers)

    def _start(self, place: Place) -> None:
        try:
            process = _SPAWN.Process(target=self.target, args=(self.listening, place.state))
            process.start()
        except OSError as error:  # no descriptor, process or memory is left
            place.failures += 1
            log.error("a worker cannot be started (%s); it is tried again in %g s", error, place.postpone())
        else:
            place.worker = Worker(process, place.state, time.monotonic())

    def _replace(self, place: Place, fault: str) -> None:
        """End a worker, and start another after a pause."""
        assert place.worker is not None
        worker, place.worker = place.worker, None
        worker.process.kill()
        worker.process.join()
        place.failures = 0 if worker.was_ready else place.failures + 1
        place.state.forget()
        log.error("worker %s %s; another is started in %g s", worker.process.pid, fault, place.postpone())

    def _end(self, workers: list[Worker]) -> None:
        self.listening.close()  # theirs is another descriptor
        for worker in workers:
            worker.process.terminate()
        until = time.monotonic() + self.drain_seconds + self.stop_seconds
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.exitcode is None:
                log.error("worker %s did not end in time and is killed", worker.process.pid)
                worker.process.kill()
                worker.process.join()


def end_with_parent(stop_seconds: float = STOP_SECONDS) -> None:
    """Send this worker SIGTERM once its supervisor has ended, be it before this call, and end it for good
    ``stop_seconds`` later."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(stop_seconds)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
