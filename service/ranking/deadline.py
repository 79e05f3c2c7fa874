"""The one deadline of a request. Every step takes its time from it; none invents a timeout."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A moment on a monotonic clock, fixed when the request arrives."""

    __slots__ = ("_at", "_clock")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    @classmethod
    def since(cls, start: float, seconds: float) -> Deadline:
        """``seconds`` after ``start``, a moment of ``time.monotonic``."""
        return cls(start + seconds - time.monotonic())

    @property
    def spent(self) -> bool:
        return self._clock() >= self._at

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._at - self._clock())

    def share(self, fraction: float) -> Deadline:
        """An earlier deadline after ``fraction`` of the time left, so that a slow step leaves some to the next."""
        return Deadline(self.remaining() * fraction, self._clock)
