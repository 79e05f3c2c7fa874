"""Admission: against a made-up server that works on one thing at a time."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from service.admission import LOWEST_LIMIT, Admission, Elsewhere

LONGEST_WAIT = 0.1


class Simulated:
    """A process with a clock of its own: a request takes ``work`` seconds of it, after ``redis`` seconds in which
    nothing is done for it; it notices what arrives when it is done with the one before."""

    def __init__(self, work: float, redis: float = 0.0002, refusal: float = 0.00006) -> None:
        self.now, self.busy = 0.0, 0.0
        self._work, self._redis, self._refusal = work, redis, refusal
        self.admission = Admission(LONGEST_WAIT, lambda: self.now, lambda: self.busy)
        self.answered: list[tuple[float, float]] = []  # arrival, latency
        self.refused: list[float] = []

    def _spend(self, seconds: float) -> None:
        self.now += seconds
        self.busy += seconds

    def run(self, arrivals: list[float]) -> None:
        waiting, replies, turns = deque(arrivals), list[tuple[float, float]](), deque[float]()
        while waiting or replies or turns:
            while waiting and waiting[0] <= self.now:
                arrival = waiting.popleft()
                if self.admission.admits(self.now - arrival):
                    turns.append(arrival)
                else:
                    self._spend(self._refusal)
                    self.refused.append(arrival)
            ready = []
            while replies and replies[0][0] <= self.now:
                ready.append(heapq.heappop(replies)[1])
                self.admission.at_work += 1
            while turns:
                arrival = turns.popleft()
                self.admission.begun(self.now - arrival)
                self.admission.at_work -= 1  # elsewhere
                heapq.heappush(replies, (self.now + self._redis, arrival))
            for arrival in ready:
                self._spend(self._work)
                self.answered.append((arrival, self.now - arrival))
                self.admission.ended()
            if not ready and (waiting or replies):
                soonest = min([reply[0] for reply in replies[:1]] + list(waiting)[:1])
                self.now = max(self.now, soonest)

    def latencies(self, since: float, until: float) -> FloatArray:
        return np.array([latency for arrival, latency in self.answered if since <= arrival < until])


def poisson(rate: float, since: float, until: float, seed: int = 0) -> list[float]:
    gaps = np.random.default_rng(seed).exponential(1 / rate, round(2 * rate * (until - since)))
    times = since + np.cumsum(gaps)
    return list(times[times < until])


@pytest.mark.parametrize("work", [0.0005, 0.0017, 0.005])
def test_three_times_the_capacity_costs_others_little(work: float) -> None:
    capacity = 1 / (work + 0.0001)
    server = Simulated(work)
    server.run(poisson(0.5 * capacity, 0, 5) + poisson(3 * capacity, 5, 15, 1) + poisson(0.5 * capacity, 15, 20, 2))
    calm, flood = server.latencies(0, 5), server.latencies(5, 15)
    assert not [arrival for arrival in server.refused if arrival < 5]
    assert len(flood) / 10 >= 0.9 / (work + 2 * 0.00006)  # refusing has its price
    assert float(np.percentile(flood, 99)) <= max(3 * float(np.percentile(calm, 99)), 0.35 * LONGEST_WAIT)
    assert not [arrival for arrival in server.refused if arrival > 15.5]
    assert server.admission.at_work == 0


def test_a_slow_redis_is_no_overload() -> None:
    server = Simulated(0.002, redis=0.15)
    server.run(poisson(300, 0, 5))  # 45 are under way, though the processor has time
    assert len(server.refused) < 0.005 * 1500


def test_a_burst_that_can_be_worked_off_is_let_in() -> None:
    server = Simulated(0.001)
    server.run(poisson(300, 0, 1) + [1.5] * 20 + poisson(300, 2, 3))
    assert not server.refused


def test_who_waited_too_long_is_refused_even_when_nothing_is_at_work() -> None:
    admission = Admission(LONGEST_WAIT)
    assert not admission.admits(LONGEST_WAIT * 1.01)
    assert admission.admits(LONGEST_WAIT * 0.99)


def test_a_request_that_waits_elsewhere_is_not_at_work() -> None:
    admission = Admission(LONGEST_WAIT)

    async def request() -> list[int]:
        assert admission.admits(0.0)
        admission.begun(0.0)
        counts = [admission.at_work]
        with Elsewhere():
            counts.append(admission.at_work)
        admission.ended()
        return [*counts, admission.at_work]

    assert asyncio.run(request()) == [1, 0, 0]
    with Elsewhere():  # what the process does for itself
        assert admission.at_work == 0


def test_the_limit_never_falls_so_low_that_the_process_idles() -> None:
    now = [0.0]
    admission = Admission(LONGEST_WAIT, lambda: now[0], lambda: now[0])
    for _ in range(100):
        for _ in range(8):
            assert admission.admits(0.0)
            admission.begun(1.0)  # starved by its neighbours
            now[0] += 0.01
            admission.ended()
    assert admission.limit == LOWEST_LIMIT
