"""Several processes that answer on one port, kept alive by one that answers nothing.

A worker is well while its event loop turns: it notes the time in shared memory ten times a second, from when it is
ready. One that ends or stands still is replaced, later and later if that fails again; others are never stopped for it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

log = logging.getLogger(__name__)

START_SECONDS = 300.0
"""Time until a worker has to be ready: imports and releases take long beside busy neighbours."""

STILL_SECONDS = 30.0
"""Time for which the event loop of a worker may stand still before it is replaced."""

STOP_SECONDS = 15.0
"""Time after its drain in which a worker has to end by itself."""

WATCH_SECONDS = 0.2
_LONGEST_PAUSE = 30.0

Target = Callable[[socket.socket, Any], None]
"""What a worker runs: with the socket, and the shared number in which it notes the time of the monotonic clock."""

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Worker:
    """One of the processes; ``beat`` is 0 until it is ready."""

    process: BaseProcess
    beat: Any
    started: float

    @property
    def was_ready(self) -> bool:
        return float(self.beat.value) > 0.0

    def fault(self, now: float) -> str:
        """What is wrong with it, "" if nothing is."""
        if self.process.exitcode is not None:
            return f"ended with status {self.process.exitcode}"
        if not self.was_ready:
            return "" if now - self.started < START_SECONDS else f"was not ready in {START_SECONDS:g} s"
        still = now - float(self.beat.value)
        return "" if still < STILL_SECONDS else f"has stood still for {still:.0f} s"


@dataclass
class Place:
    """Where a worker is, or will be at ``due``; ``failures`` in a row, without one that was ready."""

    worker: Worker | None = None
    due: float = 0.0
    failures: int = 0


@dataclass
class Supervisor:
    """Runs ``count`` workers on ``listening`` until it is told to stop."""

    target: Target
    listening: socket.socket
    count: int
    drain_seconds: float
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> bool:
        """Whether a worker was ever ready. Ends after SIGTERM and SIGINT, or if all workers ended and none was."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        places = [Place() for _ in range(self.count)]
        served = False
        while not self._stop.is_set():
            now = time.monotonic()
            for place in places:
                if place.worker is None and place.due <= now:
                    place.worker = self._started()
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

    def _started(self) -> Worker:
        beat = _SPAWN.Value("d", 0.0, lock=False)
        process = _SPAWN.Process(target=self.target, args=(self.listening, beat))
        process.start()
        return Worker(process, beat, time.monotonic())

    def _replace(self, place: Place, fault: str) -> None:
        """End a worker, and start another after a pause."""
        assert place.worker is not None
        worker, place.worker = place.worker, None
        worker.process.kill()
        worker.process.join()
        place.failures = 0 if worker.was_ready else place.failures + 1
        pause = min(_LONGEST_PAUSE, 2.0**place.failures - 1.0)
        place.due = time.monotonic() + pause
        log.error("worker %s %s; another is started in %g s", worker.process.pid, fault, pause)

    def _end(self, workers: list[Worker]) -> None:
        self.listening.close()  # theirs is another descriptor
        for worker in workers:
            worker.process.terminate()
        until = time.monotonic() + self.drain_seconds + STOP_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.exitcode is None:
                log.error("worker %s did not end in time and is killed", worker.process.pid)
                worker.process.kill()
                worker.process.join()


def end_with_parent() -> None:
    """Send this process SIGTERM once its parent has ended, and end it for good some time later."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
