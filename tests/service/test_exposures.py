"""The exposure log never waits and never raises; what it cannot write is kept, or dropped and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from models.contract.exposures import Exposure
from models.contract.keys import Keys
from models.valkey.embedded import embedded_redis
from service import exposures as stream
from service.exposures import ExposureLog
from service.ranking.deadline import Deadline
from service.redis import RedisLink
from service.redis_connection import Command
from service.telemetry import Telemetry
from tests.service.conftest import erasure_of, eventually


def _exposure(number: int) -> Exposure:
    return Exposure(
        request_id=f"r{number}", user_id="u", unit="u", time_ms=1, release="r1", arms=(), knowledge=True, degraded=(),
        latency_ms=1.0, candidates=1, items=("a",), scores=(0.5,), history_events=0, history_digest="00",
    )  # fmt: skip


def _written(store: redis.Redis, keys: Keys) -> list[str]:
    entries: Any = store.xrange(keys.exposures)
    return [Exposure.from_stream(fields).request_id for _, fields in entries]


def _count(telemetry: Telemetry, name: str, **labels: str) -> float:
    return telemetry.registry.get_sample_value(f"lorank_exposures_{name}_total", labels) or 0.0


async def test_leaving_writes_what_is_queued(
    link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry
) -> None:
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=1000, stream_max=10_000) as log:
        for number in range(450):
            log.offer(_exposure(number), {})
    assert _written(store, keys) == [f"r{number}" for number in range(450)]
    assert log.depth == log.dropped == 0
    assert _count(telemetry, "written") == 450


class Counting(RedisLink):
    """A link that remembers how many commands went out together."""

    def __init__(self, url: str, connections: int) -> None:
        super().__init__(url, connections)
        self.trips: list[int] = []

    async def round_trip(
        self, commands: Sequence[Command], deadline: Deadline, may_be_stale: bool = False
    ) -> list[Any]:
        self.trips.append(len(commands))
        return await super().round_trip(commands, deadline)


@pytest.mark.parametrize(("capacity", "trips"), [(1000, [4]), (10, [2, 2, 2])])
async def test_what_comes_within_a_moment_is_written_together(
    valkey: str, store: redis.Redis, keys: Keys, telemetry: Telemetry, capacity: int, trips: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Unless the queue is too short to gather in."""
    monkeypatch.setattr(stream, "GATHER_SECONDS", 0.3)
    link = Counting(valkey, 2)
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=capacity, stream_max=100) as log:
        for number in range(3):
            log.offer(_exposure(number), {})
            if len(trips) == 1:
                await asyncio.sleep(0.05)
            else:
                await eventually(lambda: log.depth == 0)
        await eventually(lambda: log.depth == 0)
    assert link.trips == trips
    assert _written(store, keys) == ["r0", "r1", "r2"]
    await link.close()


async def test_leaving_within_that_moment_loses_nothing(
    link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry
) -> None:
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=1000, stream_max=100) as log:
        log.offer(_exposure(0), {})
        await asyncio.sleep(0.001)
        log.offer(_exposure(1), {})
    assert _written(store, keys) == ["r0", "r1"]


async def test_the_stream_is_capped(link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry) -> None:
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=10_000, stream_max=100) as log:
        for number in range(2000):
            log.offer(_exposure(number), {})
    assert 100 <= len(_written(store, keys)) < 400  # approximate trimming works in whole nodes
    assert _written(store, keys)[-1] == "r1999"


async def test_an_outage_drops_only_what_does_not_fit(
    tmp_path: Path, keys: Keys, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.01)
    link = RedisLink(f"unix://{tmp_path}/later/valkey.sock", 2)
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=3, stream_max=100) as log:
        for number in range(5):
            log.offer(_exposure(number), {})
        assert log.dropped == 2
        await eventually(lambda: log.failing)
        assert log.depth == 3
        with embedded_redis(tmp_path / "later") as url:
            await eventually(lambda: log.depth == 0)
            assert log.failing == ""
            with redis.Redis.from_url(url) as store:
                assert _written(store, keys) == ["r0", "r1", "r2"]
            await link.close()
    assert _count(telemetry, "dropped", reason="queue_full") == 2


async def test_what_a_shutdown_cannot_write_is_counted(tmp_path: Path, keys: Keys, telemetry: Telemetry) -> None:
    link = RedisLink(f"unix://{tmp_path}/nothing.sock", 2)
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=10, stream_max=100) as log:
        for number in range(4):
            log.offer(_exposure(number), {})
    assert log.dropped == 4
    assert _count(telemetry, "dropped", reason="shutdown") == 4
    await link.close()


class Scripted(RedisLink):
    """A link that answers with what ``answer`` makes of a command."""

    def __init__(self, answer: Callable[[Command], Any]) -> None:
        super().__init__("redis://nowhere", 1)
        self.answer = answer
        self.sent: list[Command] = []

    async def round_trip(
        self, commands: Sequence[Command], deadline: Deadline, may_be_stale: bool = False
    ) -> list[Any]:
        self.sent += [command for command in commands if command[0] != "HGET"]  # which looks at the tombstones
        return [b"0" if command[0] == "HGET" else self.answer(command) for command in commands]


async def test_an_exposure_is_not_written_again_because_its_arm_was_not_kept(
    store: redis.Redis, valkey: str, keys: Keys, telemetry: Telemetry
) -> None:
    store.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-expire"])
    link = RedisLink(valkey.replace("unix://", "unix://mute:x@"), 2)
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=100, stream_max=100) as log:
        for number in range(10):
            log.offer(_exposure(number), {"e__0": ("a", 1.0)})
        await eventually(lambda: log.depth == 0)
        assert "arms are not kept: NOPERM" in log.failing
    await link.close()
    store.acl_deluser("mute")
    assert _written(store, keys) == [f"r{number}" for number in range(10)]
    assert telemetry.registry.get_sample_value("lorank_arms_not_kept_total") == 10


async def test_only_what_was_refused_is_written_again(
    keys: Keys, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.01)
    refusals = [ResponseError("OOM")]

    def answer(command: Command) -> Any:
        return refusals.pop() if '"request_id":"r3"' in str(command) and refusals else b"1"

    link = Scripted(answer)
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=100, stream_max=100) as log:
        for number in range(5):
            log.offer(_exposure(number), {})
        await eventually(lambda: log.depth == 0)
    sent = [next(f"r{at}" for at in range(5) if f'"request_id":"r{at}"' in str(command)) for command in link.sent]
    assert sent == ["r0", "r1", "r2", "r3", "r4", "r3"]


async def test_an_exposure_that_cannot_be_written_stops_no_other(
    keys: Keys, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Exposure.to_stream

    def broken(exposure: Exposure) -> dict[str, str]:
        if exposure.request_id == "r2":
            raise TypeError("nobody thought of this")
        return whole(exposure)

    monkeypatch.setattr(Exposure, "to_stream", broken)
    link = Scripted(lambda command: b"1")
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=100, stream_max=100) as log:
        for number in range(5):
            log.offer(_exposure(number), {})
    assert len(link.sent) == 4
    assert log.dropped == _count(telemetry, "dropped", reason="invalid") == 1


async def test_the_writer_survives_what_nobody_thought_of(
    keys: Keys, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.01)
    surprises = [ValueError("surprise")]

    def answer(command: Command) -> Any:
        if surprises:
            raise surprises.pop()
        return b"1"

    async with ExposureLog(erasure_of(Scripted(answer), keys), telemetry, capacity=100, stream_max=100) as log:
        log.offer(_exposure(1), {})
        await eventually(lambda: log.depth == 0)
    assert log.dropped == 0


async def test_a_writer_that_cannot_go_on_holds_up_no_stop(keys: Keys, telemetry: Telemetry) -> None:
    def answer(command: Command) -> Any:
        raise ValueError("always")

    async with ExposureLog(erasure_of(Scripted(answer), keys), telemetry, capacity=100, stream_max=100) as log:
        for number in range(3):
            log.offer(_exposure(number), {})
    assert log.dropped == _count(telemetry, "dropped", reason="shutdown") == 3


async def test_a_stream_key_of_another_type_breaks_nothing(
    link: RedisLink, store: redis.Redis, keys: Keys, telemetry: Telemetry
) -> None:
    store.set(keys.exposures, "not a stream")
    async with ExposureLog(erasure_of(link, keys), telemetry, capacity=10, stream_max=100) as log:
        log.offer(_exposure(1), {})
        await asyncio.wait_for(eventually(lambda: "WRONGTYPE" in log.failing), 10)
    assert log.dropped == 1
