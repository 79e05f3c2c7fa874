"""A timer of the kernel that wakes an event loop to a few microseconds. Loops' own timers count in milliseconds, and
looking at the clock until it is time would take the processor from Redis, which has the same core."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NONBLOCK, _ABSOLUTE = os.O_NONBLOCK, 1


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class Timer:
    """Calls ``then`` at a time of ``time.perf_counter``, once for each ``set``. Linux only."""

    def __init__(self, descriptor: int, libc: ctypes.CDLL) -> None:
        self._descriptor = descriptor
        self._libc = libc

    @classmethod
    @contextmanager
    def calling(cls, then: Callable[[], None]) -> Iterator[Timer]:
        """In the running loop, for as long as the context lasts. OSError if the kernel gives no timer."""
        libc, loop = ctypes.CDLL(None, use_errno=True), asyncio.get_running_loop()
        descriptor = libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

        def fire() -> None:
            try:
                os.read(descriptor, 8)
            except BlockingIOError:  # it was set anew meanwhile
                return
            then()

        loop.add_reader(descriptor, fire)
        try:
            yield cls(descriptor, libc)
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def set(self, at: float) -> None:
        """A time that is over already calls at once."""
        seconds = max(at, 1e-6)
        value = _Time(int(seconds), int(seconds % 1 * 1e9))
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(_Setting(_Time(0, 0), value)), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
