"""``python -m service`` as a process: it starts its own Redis, answers, and stops cleanly on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from models.contract.events import EVENT_BYTES
from models.contract.keys import Keys
from models.valkey.server import is_absent, socket_path
from service.__main__ import main
from service.settings import Settings
from tests.service.conftest import ROOT, ended_at_a_port_in_use, eventually
from tests.service.tiny import Publisher


async def test_a_process_serves_and_stops_on_ctrl_c(
    process: subprocess.Popen[bytes], environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "valkey" / "tiny"
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{environment['LORANK_PORT']}") as http:

        async def answers(path: str, status: int) -> bool:
            try:
                return bool((await http.get(path)).status_code == status)
            except httpx2.TransportError:
                return False

        await eventually(lambda: answers("/healthz", 200), seconds=60)
        assert await answers("/readyz", 503)
        with redis.Redis(unix_socket_path=str(socket_path(folder))) as store:
            Publisher(store, Keys("lorank:tiny"), tmp_path / "artifacts" / "tiny").publish()
        await eventually(lambda: answers("/readyz", 200), seconds=60)
        body = {"user_id": "u", "candidates": [{"id": "a"}, {"id": "e"}]}
        answer = (await http.post("/v1/rank", json=body)).json()
        assert [item["id"] for item in answer["items"]] == ["e", "a"]
        assert answer["degraded"] == []
        oversized = await http.post("/v1/rank", content=b" " * (5 * 1024 * 1024))
        assert oversized.status_code == 413
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, 60) == 0
    assert is_absent(socket_path(folder))  # the last one out stopped the server


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LORANK_PROT": "1"}, "LORANK_PORT"),
        ({"LORANK_EXPERIMENTS": "/does/not/exist.toml"}, "/does/not/exist.toml"),
        ({"LORANK_REDIS_URL": "redis://:secret@h:abc"}, "LORANK_REDIS_URL"),
    ],
)
def test_settings_that_cannot_take_effect_stop_the_start(
    environment: dict[str, str],
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: it ends before the service changes anything of its own."""
    for name, value in (environment | variables).items():
        monkeypatch.setenv(name, value)
    assert main() == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert "secret" not in errors


def test_a_stop_before_it_serves_is_one_line_and_its_status(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    former = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Settings, "from_environment", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    try:
        assert main() == 1
    finally:
        signal.signal(signal.SIGTERM, former)
    assert capsys.readouterr().err == "lorank: stopped before it served\n"


def test_a_port_in_use_is_an_exit_status_of_its_own(environment: dict[str, str]) -> None:
    status, errors = ended_at_a_port_in_use(environment)
    assert status == 3
    assert "address already in use" in errors.lower()


async def test_a_killed_embedded_redis_is_started_again_and_sigterm_stops_both(
    process: subprocess.Popen[bytes], environment: dict[str, str], tmp_path: Path
) -> None:
    path = str(socket_path(tmp_path / "valkey" / "tiny"))
    keys = Keys("lorank:tiny")
    rank = {"user_id": "u", "candidates": [{"id": "a"}, {"id": "e"}]}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{environment['LORANK_PORT']}", timeout=60) as http:

        async def ranked() -> dict[str, Any] | None:
            try:
                response = await http.post("/v1/rank", json=rank)
            except httpx2.TransportError:
                return None
            return dict(response.json()) if response.status_code == 200 else None

        async def feedback(item: str) -> bool:
            event = {"user_id": "u", "item_id": item, "value": 5, "timestamp_ms": 1_700_000_000_000}
            return (await http.post("/v1/feedback", json=event)).status_code == 200

        async def not_degraded() -> bool:
            answer = await ranked()
            return answer is not None and answer["degraded"] == []

        await eventually(lambda: _server_at(path), seconds=60)
        with redis.Redis(unix_socket_path=path) as store:
            Publisher(store, keys, tmp_path / "artifacts" / "tiny").publish()
            before = await eventually(ranked, seconds=60)
            assert await feedback("a")
            store.execute_command("WAITAOF", 1, 0, 10_000)  # until it is on the disk
            first = _server_at(path)
            assert first is not None
            os.kill(first, signal.SIGKILL)
        await eventually(not_degraded, seconds=60)
        assert await feedback("b")
        assert _server_at(path) not in (None, first)
        with redis.Redis(unix_socket_path=path) as store:
            assert store.strlen(keys.user_history("u")) == 2 * EVENT_BYTES
            assert store.xlen(keys.interactions) == 2
        after = await ranked()
        assert after is not None
        assert after["release"] == before["release"]
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 60) == 0
    assert is_absent(Path(path))


async def test_a_service_ends_with_the_program_that_started_it(environment: dict[str, str], tmp_path: Path) -> None:
    """Also if that is killed: tests and the demo leave neither service nor Redis behind."""
    path = socket_path(tmp_path / "valkey" / "tiny")
    code = "import subprocess\nfrom offline.child import child_python\nsubprocess.run(child_python('-m', 'service'))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment) as program:  # noqa: ASYNC220
        await eventually(lambda: _server_at(str(path)), seconds=60)
        program.kill()
    await eventually(lambda: is_absent(path), seconds=60)
    assert Path(path.parent, "valkey.log").exists()  # noqa: ASYNC240

    async def refused() -> bool:
        try:
            await asyncio.open_connection("127.0.0.1", int(environment["LORANK_PORT"]))
        except ConnectionRefusedError:
            return True
        return False

    await eventually(refused, seconds=60)


def _server_at(path: str) -> int | None:
    """Process id of the server at a socket, None while there is none."""
    try:
        with redis.Redis(unix_socket_path=path) as client:
            info: Any = client.info("server")
    except redis.RedisError:
        return None
    return int(info["process_id"])
