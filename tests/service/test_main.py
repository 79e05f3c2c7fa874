"""``python -m service`` as a process: it starts its own Redis, answers, and stops cleanly on a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from models.contract.keys import Keys
from models.embedded import _answers, _socket_path
from tests.service.conftest import eventually
from tests.service.tiny import Publisher

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("LORANK_")}
    return bare | {
        "LORANK_DATA_DIR": str(tmp_path),
        "LORANK_PORT": str(port),
        "LORANK_RELEASE_POLL_SECONDS": "0.05",
        "LORANK_DEFAULT_DEADLINE_MS": "5000",
    }


@pytest.fixture
def process(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=environment) as started:
        yield started
        started.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_serves_and_stops(
    process: subprocess.Popen[bytes], environment: dict[str, str], tmp_path: Path, stop: signal.Signals
) -> None:
    folder = tmp_path / "valkey"
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{environment['LORANK_PORT']}") as http:

        async def answers(path: str, status: int) -> bool:
            try:
                return bool((await http.get(path)).status_code == status)
            except httpx2.TransportError:
                return False

        await eventually(lambda: answers("/healthz", 200), seconds=60)
        assert await answers("/readyz", 503)
        with redis.Redis(unix_socket_path=str(_socket_path(folder))) as store:
            Publisher(store, Keys(), tmp_path / "artifacts").publish()
        await eventually(lambda: answers("/readyz", 200), seconds=60)
        body = {"user_id": "u", "candidates": [{"id": "a"}, {"id": "e"}]}
        answer = (await http.post("/v1/rank", json=body)).json()
        assert [item["id"] for item in answer["items"]] == ["e", "a"]
        assert answer["degraded"] == []
        oversized = await http.post("/v1/rank", content=b" " * (5 * 1024 * 1024))
        assert oversized.status_code == 413
    process.send_signal(stop)
    assert await asyncio.to_thread(process.wait, 60) == 0
    assert not _answers(_socket_path(folder))  # the last one out stopped the server


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LORANK_PROT": "1"}, "LORANK_PORT"),
        ({"LORANK_EXPERIMENTS": "/does/not/exist.toml"}, "/does/not/exist.toml"),
    ],
)
def test_settings_that_cannot_take_effect_stop_the_start(
    environment: dict[str, str], variables: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service"], cwd=ROOT, env=environment | variables, capture_output=True, timeout=60
    )
    assert done.returncode == 2
    assert message in done.stderr.decode()


def test_nothing_happens_on_import(tmp_path: Path) -> None:
    code = "import service.app, service.__main__, threading; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
