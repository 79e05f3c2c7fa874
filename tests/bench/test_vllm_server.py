"""Starting and stopping a server with children, played by a small program in an environment of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from bench.vllm_server import Vllm, VllmError
from tests.conftest import ROOT

# Started as `python -m vllm... --port N`: has a child, as vLLM has its engine, and answers /health. The child ignores
# SIGTERM, so that only the group's end ends it.
SERVER = """
import http.server, os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path(__file__).parent
mode = (folder / "mode").read_text()
if mode == "ends":
    sys.exit("cannot allocate memory")
child = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"]
pids = [os.getpid(), subprocess.Popen(child).pid]
(folder / "pids.new").write_text(" ".join(map(str, pids)))
(folder / "pids.new").rename(folder / "pids")
if mode == "hangs":
    time.sleep(300)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *words): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
print("PYTHONPATH" in os.environ, os.environ["OMP_WAIT_POLICY"], sys.argv[1:], flush=True)
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


class Environment:
    """A folder that looks like a virtual environment whose Python runs the program above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "run/server.log"
        (folder / "bin").mkdir()
        (folder / "server.py").write_text(SERVER)
        python = folder / "bin/python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/server.py" "$@"\n')
        python.chmod(0o755)
        self.play("serves")

    def play(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "pids").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr("bench.vllm_server._POLL_SECONDS", 0.02)
    monkeypatch.setattr("bench.vllm_server._STOP_SECONDS", 1.0)
    return Environment(tmp_path)


def test_serves_until_the_block_ends_and_leaves_nothing(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with Vllm(environment.folder, Path("weights"), "tiny", environment.log, context=512).running() as server:
        assert server.model == "tiny"
        assert httpx2.get(server.base_url.removesuffix("/v1") + "/health", trust_env=False).status_code == 200
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)
        assert all(is_alive(pid) for pid in environment.pids)
    assert not any(is_alive(pid) for pid in environment.pids)
    said = environment.log.read_text()
    assert said.startswith("False PASSIVE")
    assert f"'--model', '{Path('weights').absolute()}', '--served-model-name', 'tiny'" in said
    assert "'--max-model-len', '512'" in said


def test_an_error_in_the_block_stops_it_too(environment: Environment) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Vllm(environment.folder, Path("weights"), "tiny", environment.log).running(),
    ):
        raise KeyboardInterrupt
    assert not any(is_alive(pid) for pid in environment.pids)


def test_a_server_that_ends_is_quoted(environment: Environment) -> None:
    environment.play("ends")
    with (
        pytest.raises(VllmError, match=r"(?s)ended with status 1.*cannot allocate memory"),
        Vllm(environment.folder, Path("weights"), "tiny", environment.log).running(),
    ):
        pytest.fail("it never served")


def test_a_server_that_hangs_is_given_up(environment: Environment) -> None:
    environment.play("hangs")
    with (
        pytest.raises(VllmError, match="was not ready after"),
        Vllm(environment.folder, Path("weights"), "tiny", environment.log).running(patience_seconds=2),
    ):
        pytest.fail("it never served")
    assert not any(is_alive(pid) for pid in environment.pids)


def test_without_the_environment_the_error_says_how_to_make_it(tmp_path: Path) -> None:
    with (
        pytest.raises(VllmError, match="deploy/vllm/install"),
        Vllm(tmp_path, Path("weights"), "tiny", tmp_path / "log").running(),
    ):
        pytest.fail("it never served")


def test_a_killed_starter_takes_the_server_with_it(environment: Environment) -> None:
    code = (
        "import sys, signal; from pathlib import Path; from bench.vllm_server import Vllm\n"
        "with Vllm(Path(sys.argv[1]), Path('w'), 'tiny', Path(sys.argv[2])).running(): print('up', flush=True); "
        "signal.pause()"
    )
    command = [sys.executable, "-c", code, str(environment.folder), str(environment.log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
        starter.kill()
    server, child = environment.pids
    wait_until(lambda: not is_alive(server))
    os.kill(child, signal.SIGKILL)  # vLLM's own children follow their parent; this one ignores everything
