"""``python -m offline`` at its edges: one clear line and a documented exit code, never a traceback.

The command line runs in this process, except for those that end well, fail or are stopped as processes.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from offline import __main__ as offline
from offline.child import child_python
from offline.cli import call
from offline.jobs.ledger import RunLedger
from offline.jobs.runs import exclusive
from tests.conftest import ROOT, clean_environment
from tests.offline.config_file import write_config
from tests.offline.llm.chat_server import running_server
from tests.offline.pipeline import pipeline

CONFIG = (ROOT / "configs" / "ml-100k.toml").read_text()


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a command line: exit code, standard output and standard error."""

    code: int
    output: str
    errors: str

    def assert_one_line(self, *words: str, code: int = 1) -> None:
        """Asserts a failure with this exit code, told in one line with these words."""
        assert self.code == code, self.output + self.errors
        assert self.errors.startswith("error: ")
        assert self.errors.count("\n") == 1
        for word in words:
            assert word in self.errors


CommandLine = Callable[..., Ending]


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Runs ``python -m offline ARGUMENTS`` in this process, on the shipped configuration with a folder of its own.
    Keywords are variables of the environment."""
    for name in [name for name in os.environ if name.startswith("LORANK_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, **environment: str) -> Ending:
        output, errors = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
            patch.setattr(sys, "argv", ["offline", *arguments, *options(tmp_path)])
            patch.setattr(call, "quiet_libraries", lambda: None)  # done by tests/conftest.py, and for good
            patch.setattr(call, "end_cleanly_when_terminated", lambda: None)  # takes the process's signals
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                offline.main()
        return Ending(int(ended.value.code or 0), output.getvalue(), errors.getvalue())

    return run


def options(folder: Path) -> list[str]:
    """The shipped configuration, unless a test has put another one there, and where its data lie."""
    config = folder / "config.toml"
    if not config.exists():
        config.write_text(CONFIG.replace('workdir = "var/ml-100k"', f'workdir = "{folder / "work"}"'))
    return ["--config", str(config), "--data-dir", str(folder / "data")]


def process(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The same as a process of its own."""
    command = child_python("-m", "offline", *arguments, *options(folder))
    variables = clean_environment() | {"NO_PROXY": "127.0.0.1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=variables, text=True, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize(
    "job", [["train"], ["publish"], ["report"], ["verify"], ["export-answers", "answers.jsonl.gz"]]
)
def test_a_job_without_what_it_needs_says_what_to_run_first(command_line: CommandLine, job: list[str]) -> None:
    command_line(*job).assert_one_line("run `refresh`")
    assert not (ROOT / "answers.jsonl.gz").exists()


@pytest.mark.parametrize("name", ["log/log.json", "log.npz", "stages.json"])
@pytest.mark.parametrize("content", [b"", b"not what it was", b"PK\x03\x04 cut"])
def test_damaged_state_is_named(command_line: CommandLine, tmp_path: Path, name: str, content: bytes) -> None:
    work = tmp_path / "work"
    (work / name).parent.mkdir(parents=True)
    (work / name).write_bytes(content)
    command_line("status" if name == "stages.json" else "train").assert_one_line(name, "cannot be read")


@pytest.mark.parametrize("url", ["redis:x", "http://x", "redis://h:abc"])
def test_a_malformed_redis_url_is_one_line(command_line: CommandLine, url: str) -> None:
    command_line("status", LORANK_REDIS_URL=url).assert_one_line("LORANK_REDIS_URL")


def test_a_key_prefix_that_the_service_would_refuse_is_refused(command_line: CommandLine) -> None:
    command_line("status", LORANK_KEY_PREFIX="a b{}").assert_one_line("LORANK_KEY_PREFIX")


def test_a_password_is_never_shown(command_line: CommandLine) -> None:
    ending = command_line("status", LORANK_REDIS_URL="redis://:sEcReT@127.0.0.1:1/0")
    ending.assert_one_line("does not answer", "***")
    assert "sEcReT" not in ending.output + ending.errors


def test_two_jobs_in_one_folder_exclude_each_other(command_line: CommandLine, tmp_path: Path) -> None:
    with exclusive(tmp_path / "work", "train"):
        ending = command_line("refresh")
    ending.assert_one_line("another job is at work", "`train`, process", code=4)
    assert json.loads(ending.output.splitlines()[-1])["status"] == "locked"


def test_a_lock_whose_holder_has_not_said_who_it_is(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command_line("refresh").assert_one_line("has not said who it is", code=4)


def test_a_misspelt_setting_is_a_wrong_call(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG.replace("patience", "patiance"))
    ending = command_line("refresh")
    assert ending.code == 2
    assert "training.patiance" in ending.errors
    assert "Traceback" not in ending.errors


def test_a_process_that_ends_well(tmp_path: Path) -> None:
    with process(tmp_path, "status", "--json") as running:
        output, errors = running.communicate(timeout=120)
    assert (running.returncode, errors) == (0, "")
    assert json.loads(output)["live"] is None


def test_a_process_that_fails(tmp_path: Path) -> None:
    with exclusive(tmp_path / "work", "train"), process(tmp_path, "refresh") as running:
        output, errors = running.communicate(timeout=120)
    ending = Ending(running.returncode, output, errors)
    ending.assert_one_line("another job is at work", f"process {os.getpid()}", code=4)
    assert json.loads(output.splitlines()[-1])["exit_code"] == 4


@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_process_that_is_terminated(tmp_path: Path, stop: signal.Signals, code: int) -> None:
    """While a language model answers slowly: the answers that came are stored, and nothing more is asked."""
    with running_server() as server:
        server.delay = lambda text: 0.1
        config = pipeline(tmp_path, "", "unused").config
        document = config.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        document["llm"] = {"backend": "openai", "base_url": server.base_url, "model": "tiny", "concurrency": 1}
        write_config(document, tmp_path / "config.toml")
        with process(tmp_path, "knowledge", "--producer", "liber") as running:
            server.wait_until(lambda: server.answered.total() >= 3)
            running.send_signal(stop)
            output, errors = running.communicate(timeout=120)
        assert running.returncode == code
        assert "Traceback" not in errors
        summary = json.loads(output.splitlines()[-1])
        assert (summary["status"], summary["exit_code"]) == ("interrupted", code)
        assert 2 <= summary["llm"]["paid"] <= server.asked.total() <= summary["llm"]["paid"] + 1  # one in flight
        assert RunLedger(config.workdir).runs()[-1].document() == summary


IN_A_LIBRARY = """
import hashlib, threading, typer
from offline.cli import call

call.ENDING_SECONDS = 0.5
app = typer.Typer()

@app.command()
def compute() -> None:
    threading.Timer(0.5, lambda: print("begun", flush=True)).start()
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)

call.run_command_line(app)
"""
"""A job in the middle of a call that takes half an hour, and during which Python looks at no signal."""


def test_a_process_that_is_terminated_in_the_middle_of_a_long_call_of_a_library() -> None:
    command = child_python("-c", IN_A_LIBRARY)
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=300)
    assert running.returncode == 143
    assert errors == "stopped by force, 0.5 s after SIGTERM\n"


def test_a_command_line_that_ended_leaves_no_thread_and_no_descriptor_behind() -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with call.ended_by_force():
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "termination")
    thread.join()
    assert signal.set_wakeup_fd(before) == before
