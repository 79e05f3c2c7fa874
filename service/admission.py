"""Admission of requests: how many a process works on at once, found from how long they wait for their turn.

A request that waits behind too many others is answered when its caller has gone, and so is every later one. What is too
much is refused before its body is parsed, which costs little, and the rest keeps its pace. The limit falls as soon
as requests wait longer than they should, and grows while they do not, as a congestion window does. A request that waits
for Redis, a language model or its caller keeps nobody waiting: it is not at work meanwhile (``Elsewhere``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

WORKS, SHARE = 1.0, 0.05
"""Mean wait that is aimed at where there is more to do than can be done: in processor time of a request, and at least
this share of the longest wait."""

BURST, LEAST_BURST = 0.25, 10.0
"""The limit where nothing waits: requests that are worked off in this share of the longest wait, and at least so
many."""

LOWEST_LIMIT = 2
"""Requests at once below which the process would idle."""

PERIOD_SECONDS, PERIOD_REQUESTS = 0.025, 8
"""Time and number of requests, both at least, after which the limit is judged anew."""

CALM_PERIODS = 8
"""Periods in a row without a wait or a refusal after which the limit is as high as that of a burst again."""

_SLOWEST_FALL, _GROWTH = 0.2, 1.1


class Admission:
    """Counts the requests at work and says which may join them. One per process, used by its event loop alone.

    ``longest_wait`` is in seconds: a request that waited longer is refused in any case, and the other bounds follow
    from it and from ``work``, the processor time of a request in seconds, 0 until it is known. ``limit`` is the most
    that may be at work.
    """

    def __init__(
        self,
        longest_wait: float,
        clock: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self._longest_wait, self._clock, self._processor = longest_wait, clock, processor
        self.at_work, self.work, self.limit = 0, 0.0, 4 * LEAST_BURST
        self._peak, self._was_full, self._calm_periods = 0, False, 0
        self._begin_period()

    @property
    def is_full(self) -> bool:
        """Whether no request is admitted now."""
        if self.at_work < self.limit:
            return False
        self._was_full = True
        return True

    def admits(self, waited: float) -> bool:
        """Whether a request that was unread for ``waited`` seconds may begin; it is at work from then on."""
        if self.is_full or waited > self._longest_wait:
            return False
        self.at_work += 1
        self._peak = max(self._peak, self.at_work)
        return True

    def begun(self, waited: float) -> None:
        """Note that a request has its turn, ``waited`` seconds after it arrived; what this task does is its work."""
        _ADMISSION.set(self)
        self._waited += waited
        self._begun += 1

    def ended(self) -> None:
        """Note that a request is answered, or was given up."""
        self.at_work -= 1
        self._ended += 1
        if min(self._begun, self._ended) >= PERIOD_REQUESTS and self._clock() - self._since >= PERIOD_SECONDS:
            self._judge()

    @property
    def retry_after_ms(self) -> int:
        """When a refused caller may come again: by then what is at work now is done several times over."""
        return max(100, min(1000, round(4000.0 * self.work * self.at_work)))

    def _begin_period(self) -> None:
        self._since, self._processor_since = self._clock(), self._processor()
        self._waited, self._begun, self._ended, self._peak, self._was_full = 0.0, 0, 0, self.at_work, False

    def _judge(self) -> None:
        work = (self._processor() - self._processor_since) / self._ended
        self.work = work if not self.work else 0.5 * (self.work + work)
        wait, aim = self._waited / self._begun, max(WORKS * self.work, SHARE * self._longest_wait)
        self._calm_periods = 0 if wait > aim or self._was_full else self._calm_periods + 1
        if wait > aim:
            fall = max(_SLOWEST_FALL, aim / wait)
            self.limit = max(float(LOWEST_LIMIT), min(self.limit, float(self._peak)) * fall)
        elif self._calm_periods < CALM_PERIODS:
            self.limit = self.limit * _GROWTH + 0.5
        else:
            self.limit = max(LEAST_BURST, BURST * self._longest_wait / max(self.work, 1e-6))
        self._begin_period()


_ADMISSION: ContextVar[Admission | None] = ContextVar("admission", default=None)
"""Where the request of the running task counts as being at work."""


class Elsewhere:
    """A context in which the running task waits for another process or a caller. Its request, if it is one's, is not at
    work."""

    __slots__ = ("_admission",)

    def __enter__(self) -> None:
        self._admission = _ADMISSION.get()
        if self._admission is not None:
            self._admission.at_work -= 1

    def __exit__(self, *_: object) -> None:
        if self._admission is not None:
            self._admission.at_work += 1
