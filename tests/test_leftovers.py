"""The check that no process outlives the tests, on a small session that leaves some behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environment
from tests.leftovers import leftovers

_CONFTEST = """
from tests import leftovers
from tests.leftovers import no_process_is_left
leftovers.PATIENCE_SECONDS = 1.0
"""

_LEAKS = """
from models.valkey.embedded import embedded_redis
servers = []
def test_server(tmp_path):
    servers.append(embedded_redis(tmp_path / "valkey"))
    servers[0].__enter__()
"""

_CLEAN = """
from models.valkey.embedded import embedded_redis
def test_server(tmp_path):
    with embedded_redis(tmp_path / "valkey"):
        pass
"""

_SERVICE = """
import os, subprocess
from offline.child import child_python
def test_service(tmp_path):
    variables = os.environ | {"LORANK_DATA_DIR": str(tmp_path / "data")}
    service = subprocess.Popen(child_python("-c", "import time; time.sleep(600)"), env=variables)
    service.returncode = 0
"""


def session(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest, in a process of its own, over one file; its temporary folders lie in ``folder / "base"``."""
    (folder / "tests_of_its_own").mkdir()
    (folder / "tests_of_its_own" / "conftest.py").write_text(_CONFTEST)
    (folder / "tests_of_its_own" / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(folder / "base")]
    return subprocess.run(
        [*command, *options, "tests_of_its_own"],
        cwd=folder, env=clean_environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "a worker"])
@pytest.mark.parametrize(("test", "folder"), [(_LEAKS, "valkey"), (_SERVICE, "data")], ids=["server", "service"])
def test_a_process_that_is_left_fails_the_session(
    tmp_path: Path, test: str, folder: str, options: tuple[str, ...]
) -> None:
    ended = session(tmp_path, test, *options)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "1 passed, 1 error" in ended.stdout
    assert "the tests left behind process " in ended.stdout
    assert f"in {tmp_path}/base/" in ended.stdout
    assert f"/{folder}: " in ended.stdout


def test_nothing_is_left(tmp_path: Path) -> None:
    ended = session(tmp_path, _CLEAN)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_deleted_folder_shows_its_process_too(tmp_path: Path) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=folder) as process:
        folder.rmdir()
        assert [leftover.process for leftover in leftovers(tmp_path)] == [process.pid]
        os.kill(process.pid, signal.SIGKILL)
    assert leftovers(tmp_path) == []
