"""The one deadline of a request, from which every step takes its time, and the times that its steps took."""

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


class Stopwatch:
    """Milliseconds per step of one request. The total counts from the request's arrival, so it exceeds their sum."""

    __slots__ = ("_last", "_taken")

    def __init__(self, queue: float = 0.0) -> None:
        """``queue``: seconds from the arrival to now, in which nothing was done for the request but reading it."""
        self._last = time.perf_counter()
        self._taken = {"queue": round(queue * 1000.0, 3)}

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self._taken[step] = round((now - self._last) * 1000.0, 3)
        self._last = now

    def finish(self, total: float) -> dict[str, float]:
        """With the ``total`` in seconds."""
        return {**self._taken, "total": round(total * 1000.0, 3)}
