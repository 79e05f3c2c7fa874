"""Descriptors: raised as far as they may be, and no more connections than they leave room for."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass, field

import pytest

from service.admission import Admission
from service.server import descriptors
from service.server.connections import REFUSED_AT_ONCE, ConnectionLimits, Connections
from service.server.descriptors import fitting, open_descriptors


@dataclass
class Limit:
    """In place of the process's own."""

    soft: int
    hard: int

    def getrlimit(self, of: int) -> tuple[int, int]:
        return self.soft, self.hard

    def setrlimit(self, of: int, limits: tuple[int, int]) -> None:
        self.soft, self.hard = limits


def given(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, used: int = 20) -> Limit:
    limit = Limit(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limit.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limit.setrlimit)
    monkeypatch.setattr(descriptors, "open_descriptors", lambda: used)
    return limit


@pytest.mark.parametrize("hard", [1_000_000, resource.RLIM_INFINITY])
def test_the_limit_is_raised_as_far_as_connections_need(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hard: int
) -> None:
    limit, limits = given(monkeypatch, 1024, hard), ConnectionLimits(connections=10_000)
    assert fitting(limits, own=64) is limits
    assert 10_064 < limit.soft < 20_000
    assert caplog.messages == []


def test_a_limit_that_is_high_enough_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, limits = given(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY), ConnectionLimits()
    assert fitting(limits, own=64) is limits
    assert limit.soft == resource.RLIM_INFINITY


@pytest.mark.parametrize(("hard", "connections"), [(4096, 2964), (64, 22), (22, 1), (10, 1)])
def test_few_descriptors_mean_few_connections_and_a_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hard: int, connections: int
) -> None:
    limit = given(monkeypatch, min(hard, 1024), hard)
    assert fitting(ConnectionLimits(connections=10_000), own=64).connections == connections
    assert limit.soft == hard
    (line,) = caplog.messages
    assert f"with {hard} (ulimit -n) this process takes {connections} connections at once" in line
    assert "LORANK_MAX_CONNECTIONS=10000" in line


def test_open_descriptors_are_counted() -> None:
    before = open_descriptors()
    with open(__file__, "rb"):
        assert open_descriptors() == before + 1


@dataclass(eq=False)
class Caller:
    swept: list[float] = field(default_factory=list)

    def sweep(self, now: float) -> None:
        self.swept.append(now)

    def close_if_idle(self) -> bool:
        return False


def test_connections_beyond_the_limit_are_counted_and_soon_closed() -> None:
    connections, surplus = Connections(ConnectionLimits(connections=3), Admission(1.0)), []
    connections.on_surplus = lambda: surplus.append(len(connections))
    callers = [Caller() for _ in range(3 + REFUSED_AT_ONCE + 2)]
    for caller in callers:
        connections.add(caller)
    assert [connections.admits(caller) for caller in callers[:4]] == [True, True, True, False]
    assert len(surplus) == REFUSED_AT_ONCE + 2
    assert [caller.swept for caller in callers[-3:]] == [[], [math.inf], [math.inf]]
