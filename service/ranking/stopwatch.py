"""Times of the steps of one request."""

from __future__ import annotations

import time


class Stopwatch:
    """Milliseconds per step of one request. The total counts from the request's arrival, so it exceeds their sum."""

    __slots__ = ("_last", "_taken")

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._taken: dict[str, float] = {}

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self._taken[step] = round((now - self._last) * 1000.0, 3)
        self._last = now

    def finish(self, total: float) -> dict[str, float]:
        """With the ``total`` in seconds."""
        return {**self._taken, "total": round(total * 1000.0, 3)}
