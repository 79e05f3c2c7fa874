"""``python -m service`` in the surroundings that containers and machines give it: it serves, or says in one line what
it needs, and ends with the status that docs/operations.md names."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.service.conftest import ROOT
from tests.service.tiny import Publisher

BODY = json.dumps({"user_id": "u", "candidates": [{"id": "a"}, {"id": "e"}]})
DEAD = "http://127.0.0.1:9"

KUBERNETES = {
    "LORANK_SERVICE_HOST": "10.0.0.1", "LORANK_SERVICE_PORT": "8000", "LORANK_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "LORANK_PORT_8000_TCP_ADDR": "10.0.0.1", "LORANK_VALKEY_PORT": "tcp://10.0.0.2:6379",
}  # fmt: skip
NO_HOME = {"HOME": "", "TMPDIR": "/proc/no-such-folder", "XDG_CACHE_HOME": "/proc"}
PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), DEAD)

READ_ONLY = """
for place in /tmp /var/tmp /usr/tmp; do
    [ ! -d $place ] || { mount --bind $place $place && mount -o remount,bind,ro $place; } || exit 77
done
mount -o remount,bind,ro / || exit 77
cd /
exec "$@"
"""
"""Makes the root, the temporary folders and the working folder read-only, in a mount namespace that needs no rights."""

NO_SHARED_MEMORY = "mount -t tmpfs -o ro none /dev/shm || exit 77\n"


def in_namespace(script: str) -> list[str]:
    return ["unshare", "-rm", "sh", "-c", script, "sh"]


def may_mount() -> bool:
    script = NO_SHARED_MEMORY + READ_ONLY
    with contextlib.suppress(OSError):
        return subprocess.run([*in_namespace(script), "true"], check=False, capture_output=True).returncode == 0
    return False


MAY_MOUNT = may_mount()
needs_mounts = pytest.mark.skipif(not MAY_MOUNT, reason="this machine lets nobody make a mount namespace")


@dataclass(frozen=True)
class Process:
    """A service that is running, and the file of its output."""

    popen: subprocess.Popen[bytes]
    port: int
    output: Path

    def status(self, route: str, body: str | None = None) -> int:
        """Status of the answer; 0 of a connection that is refused or closed."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            client.request("GET" if body is None else "POST", route, body)
            return client.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            client.close()

    def metric(self, name: str) -> float:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        client.request("GET", "/metrics")
        lines = client.getresponse().read().decode().splitlines()
        client.close()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def becomes_ready(self) -> None:
        until = time.monotonic() + 60.0
        while self.status("/readyz") != 200:
            assert self.popen.poll() is None, self.output.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        """Lines of the output that are more than information."""
        return [line for line in self.output.read_text().splitlines() if " INFO " not in line]


@contextlib.contextmanager
def serving(environment: Mapping[str, str], output: Path, wrapper: list[str] | None = None) -> Iterator[Process]:
    """A service that is ready. It ends with status 0, told to by SIGTERM."""
    command = [*(wrapper or []), sys.executable, "-m", "service"]
    with output.open("wb") as file, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file) as popen:
        process = Process(popen, int(environment["LORANK_PORT"]), output)
        try:
            process.becomes_ready()
            yield process
            popen.terminate()
            assert popen.wait(60) == 0
        finally:
            popen.kill()


@pytest.fixture
def environment(environment: dict[str, str], valkey: str, publisher: Publisher) -> dict[str, str]:
    publisher.publish()
    return environment | {
        "LORANK_REDIS_URL": valkey, "LORANK_KEY_PREFIX": publisher.keys.prefix, "PYTHONPATH": str(ROOT),
    }  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def test_a_process_needs_no_place_to_write_to_and_no_variables(environment: dict[str, str], output: Path) -> None:
    """Kubernetes' variables about a Service of our name, a home that is none, and proxies change nothing."""
    wrapper = in_namespace(NO_SHARED_MEMORY + READ_ONLY) if MAY_MOUNT else None
    with serving(environment | KUBERNETES | NO_HOME | PROXIES, output, wrapper) as process:
        assert process.status("/v1/rank", BODY) == 200
    assert process.complaints() == []


@needs_mounts
def test_several_workers_on_a_read_only_root_need_some_shared_memory(environment: dict[str, str], output: Path) -> None:
    environment |= {"LORANK_WORKERS": "2"}
    environment.pop("TMPDIR", None)
    script = "mount -t tmpfs -o size=1m none /dev/shm || exit 77\n" + READ_ONLY
    with serving(environment, output, in_namespace(script)) as process:
        assert [process.status("/v1/rank", BODY) for _ in range(5)] == [200] * 5
        assert process.metric("lorank_requests_total") >= 5
    assert process.complaints() == []


def ended(environment: Mapping[str, str], wrapper: list[str] | None = None) -> tuple[int, str]:
    """Exit status and errors of a service that does not start."""
    command = [*(wrapper or []), sys.executable, "-m", "service"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, text=True, check=False)
    return result.returncode, result.stderr


@needs_mounts
def test_several_workers_without_any_place_say_what_they_need(environment: dict[str, str]) -> None:
    environment |= {"LORANK_WORKERS": "2"}
    environment.pop("TMPDIR", None)
    status, errors = ended(environment, in_namespace(NO_SHARED_MEMORY + READ_ONLY))
    assert status == 2, errors
    (line,) = (line for line in errors.splitlines() if " INFO " not in line)
    assert "LORANK_WORKERS" in line
    assert "TMPDIR" in line


@pytest.mark.parametrize(
    ("obstacle", "status", "words"),
    [("valkey", 2, "LORANK_DATA_DIR"), ("valkey/tiny/appendonlydir", 1, "ended with status")],
    ids=["no folder", "no server"],
)
def test_an_embedded_redis_that_cannot_be(
    environment: dict[str, str], tmp_path: Path, obstacle: str, status: int, words: str
) -> None:
    (tmp_path / obstacle).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / obstacle).write_bytes(b"")
    ending, errors = ended(environment | {"LORANK_REDIS_URL": "", "LORANK_KEY_PREFIX": "lorank:tiny"})
    assert (ending, len(errors.splitlines())) == (status, 1), errors
    assert words in errors


def test_few_descriptors(environment: dict[str, str], output: Path) -> None:
    with serving(environment, output, ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"]) as process:
        callers = [socket.create_connection(("127.0.0.1", process.port), timeout=30) for _ in range(150)]
        deadline = time.monotonic() + 30.0
        while sum(_is_closed(caller) for caller in callers) < 100:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for caller in callers:
            caller.close()
        while process.status("/v1/rank", BODY) != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.metric("lorank_connections_refused_total") >= 100
    (line,) = process.complaints()
    assert "descriptors are short: with 64 (ulimit -n)" in line


def _is_closed(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        return caller.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_limits_of_connections_are_settings(environment: dict[str, str], output: Path) -> None:
    limits = {"LORANK_MAX_HEADER_BYTES": "300", "LORANK_HEADER_SECONDS": "0.2", "LORANK_MAX_CONNECTIONS": "3"}
    with serving(environment | limits, output) as process:
        assert process.status("/v1/status?" + "x" * 400) == 431
        with socket.create_connection(("127.0.0.1", process.port), timeout=30) as slow:
            slow.sendall(b"POST /v1/rank HTTP/1.1\r\n")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(socket.create_connection(("127.0.0.1", process.port), 30)) for _ in range(3)]
            for caller in idle:
                caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += caller.recv(4096)
            assert process.status("/healthz") == 200
            assert idle[0].recv(4096) == b""  # made way for it
