"""Several workers: one port, one item table, one set of metrics."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from service.server import workers
from service.server.supervisor import WorkerState
from service.server.workers import forget_the_dead, metrics_folder
from service.settings import SettingsError
from tests.conftest import ROOT
from tests.service.conftest import ended_at_a_port_in_use, eventually
from tests.service.tiny import Publisher

BODY = {"user_id": "u", "candidates": [{"id": "a"}, {"id": "e"}]}


@pytest.fixture
def environment(environment: dict[str, str], valkey: str, publisher: Publisher) -> dict[str, str]:
    publisher.publish()
    return environment | {
        "LORANK_WORKERS": "2", "LORANK_REDIS_URL": valkey, "LORANK_KEY_PREFIX": publisher.keys.prefix,
    }  # fmt: skip


async def test_workers_share_port_table_and_metrics(
    process: subprocess.Popen[bytes], environment: dict[str, str], publisher: Publisher
) -> None:  # fmt: skip
    url = f"http://127.0.0.1:{environment['LORANK_PORT']}"

    async def worker() -> int | None:
        """The process that answers a new connection."""
        try:
            async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
                assert (await http.post("/v1/rank", json=BODY)).status_code == 200
                return int((await http.get("/v1/status")).json()["process"])
        except httpx2.TransportError:
            return None

    async def both() -> set[int] | None:
        processes = {number for number in await asyncio.gather(*(worker() for _ in range(20))) if number is not None}
        return processes if len(processes) == 2 else None

    first = await eventually(both, seconds=60)
    assert process.pid not in first
    for worker_process in first:
        assert str(publisher.artifacts / "column-") in Path(f"/proc/{worker_process}/maps").read_text()  # noqa: ASYNC240

    async def ranked() -> float:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
            text = (await http.get("/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        served = [sample.value for sample in samples if sample.name == "lorank_release_info"]
        assert served == [1.0]
        return sum(
            sample.value
            for sample in samples
            if sample.name == "lorank_requests_total" and sample.labels["route"] == "/v1/rank"
        )

    before = await ranked()
    assert before >= 20
    killed = min(first)
    os.kill(killed, signal.SIGKILL)

    async def another() -> bool:
        processes = await both()
        return processes is not None and killed not in processes

    await eventually(another, seconds=60)
    assert await ranked() > before  # what the dead one had counted still counts
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 60) == 0


async def test_a_replacement_leaves_requests_to_the_others_until_it_has_a_release(
    environment: dict[str, str], publisher: Publisher, tmp_path: Path
) -> None:
    url, output = f"http://127.0.0.1:{environment['LORANK_PORT']}", tmp_path / "output"

    async def answer() -> tuple[int, int] | None:
        """Status of a ranking over a new connection, and the process that answers there."""
        try:
            async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
                status = (await http.post("/v1/rank", json=BODY)).status_code
                return status, int((await http.get("/v1/status")).json()["process"])
        except httpx2.TransportError:
            return None

    async def two_rank() -> set[int] | None:
        """The two processes that rank."""
        answers = [await answer() for _ in range(20)]
        processes = {each[1] for each in answers if each is not None and each[0] == 200}
        return processes if len(processes) == 2 else None

    command = [sys.executable, "-m", "service"]
    with output.open("wb") as file, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file) as process:  # noqa: ASYNC220
        try:
            first = await eventually(two_rank, seconds=60)
            publisher.redis.delete(publisher.keys.live)
            os.kill(min(first), signal.SIGKILL)
            await eventually(lambda: "requests are left to them" in output.read_text(), seconds=60)
            for _ in range(40):
                assert await answer() == (200, max(first))
            publisher.publish()
            both = await eventually(two_rank, seconds=60)
            assert max(first) in both
            assert min(first) not in both
        finally:
            process.terminate()


def test_states_are_shared_and_forgotten() -> None:
    first, second, third = WorkerState.of_all(3)
    assert (first.turned, first.is_ready, first.others_have_release) == (0.0, False, False)
    second.note(is_ready=True, has_release=False)
    third.note(is_ready=False)
    assert not first.others_have_release
    second.note(is_ready=True, has_release=True)
    assert (first.others_have_release, second.others_have_release, third.others_have_release) == (True, False, True)
    assert second.is_ready
    assert 0.0 < second.turned <= time.monotonic()
    second.forget()
    assert (second.turned, first.others_have_release) == (0.0, False)


def test_metrics_go_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, data = tmp_path / "full", tmp_path / "data"
    full.mkdir()
    data.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(full))
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path / "absent")
    reserve = os.posix_fallocate

    def reserved(descriptor: int, offset: int, length: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(full)):
            raise OSError(errno.ENOSPC, "no space left on device")
        reserve(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", reserved)
    with metrics_folder(data, 2) as folder:
        assert folder.parent == data
    with pytest.raises(SettingsError, match=r"TMPDIR"), metrics_folder(full, 2):
        pass


def test_a_port_in_use_is_the_same_exit_status(environment: dict[str, str]) -> None:
    status, errors = ended_at_a_port_in_use(environment)
    assert status == 3
    assert "address already in use" in errors.lower()


def test_gauges_of_the_dead_are_forgotten(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    names = [f"gauge_livemax_{dead.pid}.db", f"gauge_livemax_{os.getpid()}.db", f"counter_{dead.pid}.db"]
    for name in names:
        (tmp_path / name).touch()
    forget_the_dead(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names[1:])
    assert values.ValueClass.__name__ == "MutexValue", "a single process counts by itself"


def test_folders_of_metrics_that_nobody_locks_are_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = tmp_path / "lorank-metrics-killed"
    killed.mkdir()
    (killed / "lock").touch()
    with metrics_folder(tmp_path, 2) as first, metrics_folder(tmp_path, 2) as second:
        assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}
    assert not list(tmp_path.iterdir())
