"""When feedback is accepted: after a crash of Redis' process every accepted event is there again, and whoever asks for
more than Redis gives is told so.

SIGKILL ends the process and not the machine: what it shows is that every accepted event was written, not that it had
reached the disk. What the disk lacks of the file, the kernel tells where it can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from models.contract.events import EVENT_BYTES, Interaction
from models.contract.keys import Keys
from service.errors import Unavailable
from service.features.feedback import RedisFeedback
from service.ranking.deadline import Deadline
from service.redis import RedisPort
from service.redis_cluster import open_port
from service.redis_connection import Command
from service.telemetry import Telemetry
from tests.servers import Cluster, Server, free_ports
from tests.service.conftest import erasure_of

KEYS = Keys("durable")


def events(count: int, users: int = 7) -> list[Interaction]:
    return [
        Interaction(user_id=f"u{at % users}", item_id=f"i{at}", value=1.0, time_ms=1_700_000_000_000 + at)
        for at in range(count)
    ]


def feedback(port: RedisPort, fsyncs: int) -> RedisFeedback:
    return RedisFeedback(erasure_of(port, KEYS), Telemetry(), 1000, stream_max=100_000, fsyncs=fsyncs)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with the options of the test's parameter."""
    server = Server(tmp_path / "server", free_ports(1)[0], request.param)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("server", "fsyncs"),
    [(["--appendonly", "yes", "--appendfsync", "always"], 0), (["--appendonly", "yes"], 1)],
    indirect=["server"],
)
async def test_a_killed_redis_has_every_accepted_event(server: Server, fsyncs: int) -> None:
    port = open_port(f"redis://127.0.0.1:{server.port}", 4, "primary")
    accepted, size = events(120), 20 if fsyncs == 0 else 60
    try:
        for start in range(0, len(accepted), size):
            await feedback(port, fsyncs).accept(accepted[start : start + size], ["rating"], Deadline(10))
    finally:
        server.kill()
        await port.close()
    server.start()
    entries: Any = server.client.xrange(KEYS.interactions)
    assert [Interaction.from_stream(fields) for _, fields in entries] == accepted
    lengths = [server.client.strlen(KEYS.user_history(f"u{user}")) for user in range(7)]
    assert lengths == [sum(event.user_id == f"u{user}" for event in accepted) * EVENT_BYTES for user in range(7)]


@pytest.mark.parametrize("server", [["--appendonly", "yes", "--appendfsync", "always"]], indirect=True)
async def test_what_is_accepted_is_on_the_disk(server: Server) -> None:
    """With ``always``. Under ``everysec`` Valkey 9.1 answers WAITAOF too early, see docs/operations.md."""
    port = open_port(f"redis://127.0.0.1:{server.port}", 4, "primary")
    looks = []
    try:
        for event in events(10):
            await feedback(port, 1).accept([event], ["rating"], Deadline(10))
            looks.append(server.unwritten_pages())
    finally:
        await port.close()
    if None in looks:
        pytest.skip("this kernel does not tell what of a file is on the disk")
    assert looks == [0] * 10


async def test_events_of_a_cluster_wait_for_every_disk(shared_cluster: Cluster) -> None:
    port = open_port(shared_cluster.url, 4, "primary")
    try:
        await feedback(port, 1).accept(events(30), ["rating"], Deadline(10))
        with pytest.raises(Unavailable, match="not on as many disks"):
            await feedback(port, 2).accept(events(30), ["rating"], Deadline(0.8))
    finally:
        await port.close()


@pytest.mark.parametrize("server", [["--appendonly", "no"], ["--rename-command", "WAITAOF", ""]], indirect=True)
async def test_a_redis_that_cannot_say_it_is_told(server: Server) -> None:
    port = open_port(f"redis://127.0.0.1:{server.port}", 4, "primary")
    try:
        with pytest.raises(Unavailable, match=r"LORANK_FEEDBACK_FSYNCS needs Valkey or Redis 7.2 with appendonly yes"):
            await feedback(port, 1).accept(events(3), ["rating"], Deadline(10))
        await feedback(port, 0).accept(events(3), ["rating"], Deadline(10))
    finally:
        await port.close()


class Unordered:
    """A port that says so, and whose stream is not there."""

    in_order = False

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.reply: object = b"0"

    async def round_trip(
        self, commands: Sequence[Command], deadline: Deadline, may_be_stale: bool = False
    ) -> list[object]:
        self.sent.append([str(command[0]) for command in commands])
        return [self.reply] * len(commands)

    async def close(self) -> None:
        pass


async def test_an_event_is_in_the_stream_before_it_is_in_a_history() -> None:
    port = Unordered()
    await feedback(port, 0).accept(events(2), ["rating"], Deadline(10))
    assert port.sent == [["XADD", "XADD"], ["HGET"], ["EVALSHA", "EVALSHA"], ["HGET"]]
    port.reply = RuntimeError("no")
    with pytest.raises(Unavailable):
        await feedback(port, 0).accept(events(2), ["rating"], Deadline(10))
    assert port.sent[4:6] == [["XADD", "XADD"], ["HGET"]]
    assert ["EVALSHA", "EVALSHA"] not in port.sent[4:]
