"""The one deadline of a request. Every step takes its time from it; none invents a timeout."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A moment on a monotonic clock, counted from the arrival of the request."""

    __slots__ = ("_at", "_clock", "_start")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic, start: float | None = None) -> None:
        """``seconds`` after ``start``, a moment of ``clock``; None is now."""
        self._clock = clock
        self._start = clock() if start is None else start
        self._at = self._start + seconds

    @property
    def spent(self) -> bool:
        return self._clock() >= self._at

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._at - self._clock())

    def share(self, fraction: float) -> Deadline:
        """An earlier deadline after ``fraction`` of the time left, so that a slow step leaves some to the next."""
        return Deadline(self.remaining() * fraction, self._clock)
