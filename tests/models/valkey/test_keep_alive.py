"""The embedded Redis kept alive: started again if it is gone, and never beside a server that is merely silent."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import redis

from models.valkey import embedded
from models.valkey import server as valkey
from models.valkey.embedded import EmbeddedRedisError, embedded_redis
from tests.models.valkey.test_embedded import answers, program, server_of

KEYS = 16_000


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOOK_SECONDS", 0.02)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the servers that were started, in order."""
    started: list[Path] = []
    start = valkey.start

    def counted(folder: Path, path: Path, lock: IO[str]) -> subprocess.Popen[bytes]:
        started.append(folder)
        return start(folder, path, lock)

    monkeypatch.setattr(valkey, "start", counted)
    return started


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry per finished look at the server."""
    finished: list[bool] = []
    look = embedded._User.look

    def counted(user: embedded._User) -> None:
        try:
            look(user)
        finally:
            finished.append(True)

    monkeypatch.setattr(embedded._User, "look", counted)
    return finished


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition never held"
        time.sleep(0.01)


def test_a_killed_server_is_started_again_with_its_data(tmp_path: Path) -> None:
    with embedded_redis(tmp_path, keep_alive=True) as url:
        for round_ in range(2):
            first = server_of(url)
            with redis.Redis.from_url(url) as client:
                client.set(f"key{round_}", "value")
                client.execute_command("WAITAOF", 1, 0, 10_000)  # until it is on the disk
            os.kill(first, signal.SIGKILL)
            eventually(lambda: answers(url))
            assert server_of(url) != first
            with redis.Redis.from_url(url) as client:
                assert client.exists("key0", f"key{round_}")
    assert not answers(url)


def test_without_keep_alive_nothing_is_started_again(tmp_path: Path, starts: list[Path], looks: list[bool]) -> None:
    with embedded_redis(tmp_path) as url:
        os.kill(server_of(url), signal.SIGKILL)
        eventually(lambda: not answers(url))
    assert (len(starts), looks) == (1, [])


def test_others_that_leave_the_new_server_do_not_stop_it(tmp_path: Path, looks: list[bool]) -> None:
    with embedded_redis(tmp_path, keep_alive=True) as url:
        os.kill(server_of(url), signal.SIGKILL)
        eventually(lambda: answers(url))
        with program(tmp_path) as other:
            assert other.server == server_of(url)
            seen = len(looks)
            eventually(lambda: len(looks) > seen + 1)
            other.leave()
        assert answers(url)
    assert not answers(url)


def test_a_hanging_server_is_left_alone(
    tmp_path: Path, starts: list[Path], looks: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "ANSWER_SECONDS", 0.1)
    with embedded_redis(tmp_path, keep_alive=True) as url:
        server = server_of(url)
        os.kill(server, signal.SIGSTOP)
        try:
            seen = len(looks)
            eventually(lambda: len(looks) > seen + 3)
            with pytest.raises(EmbeddedRedisError, match="is there, but did not answer within 1 s"):
                embedded_redis(tmp_path, start_timeout=1.0).__enter__()
        finally:
            os.kill(server, signal.SIGCONT)
        eventually(lambda: answers(url))
        assert server_of(url) == server
    assert len(starts) == 1
    assert not answers(url)


@contextmanager
def loading_server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of ``folder`` that takes seconds to load its data and says so meanwhile."""
    with embedded_redis(folder) as url, redis.Redis.from_url(url) as client:
        pipeline = client.pipeline(transaction=False)
        for at in range(KEYS):
            pipeline.set(f"key{at}", at)
        pipeline.execute()
    with pytest.MonkeyPatch.context() as patch, (folder / "guard").open("w") as lock:
        slowly = ["--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024"]
        popen = subprocess.Popen

        def unguarded(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            """The server alone: a guard would end it before its first user comes."""
            (first,) = (at for at, word in enumerate(command) if word.endswith("/valkey-server"))
            return popen([*command[first:], *slowly], **options)

        patch.setattr(subprocess, "Popen", unguarded)
        server = valkey.start(folder, valkey.socket_path(folder), lock)
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def is_loading(path: Path) -> bool:
    with valkey.connection(path) as client:  # one that does not retry
        try:
            client.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False
    return False


def test_a_loading_server_is_waited_for(tmp_path: Path, starts: list[Path]) -> None:
    with loading_server(tmp_path) as server:
        eventually(lambda: is_loading(tmp_path / "valkey.sock"))
        # Far less than what loading takes: the wait lasts as long as there is progress.
        with embedded_redis(tmp_path, start_timeout=1.0) as url:
            assert server_of(url) == server.pid
            with redis.Redis.from_url(url) as client:
                assert client.dbsize() == KEYS
        assert server.wait(30) == 0  # nobody else was there
    assert len(starts) == 2  # for the data, and the one that loads it


def test_a_loading_server_is_present(tmp_path: Path, starts: list[Path], looks: list[bool]) -> None:
    with loading_server(tmp_path) as server:
        path = tmp_path / "valkey.sock"
        with embedded._presence(tmp_path) as presence:
            fcntl.flock(presence, fcntl.LOCK_SH)  # as one that has entered
            user = embedded._User(tmp_path, presence, 15.0)
            eventually(lambda: is_loading(path))
            user.look()
            assert is_loading(path)
            eventually(lambda: not is_loading(path))
            assert server_of(f"unix://{path}") == server.pid
            user.leave()
    assert len(starts) == 2


def test_a_restart_that_fails_is_tried_again(
    tmp_path: Path, looks: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    with embedded_redis(tmp_path, keep_alive=True) as url:
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
            client.execute_command("WAITAOF", 1, 0, 10_000)
        whole = manifest.read_bytes()
        manifest.write_text("this is no manifest\n")
        with caplog.at_level(logging.WARNING, "models.valkey.embedded"):
            os.kill(server_of(url), signal.SIGKILL)
            seen = len(looks)
            eventually(lambda: len(looks) > seen + 3)
        assert not answers(url)
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1  # of several attempts
        assert "manifest" in errors[0]
        manifest.write_bytes(whole)
        eventually(lambda: answers(url))
        with redis.Redis.from_url(url) as client:
            assert client.get("key") == b"value"
    assert not answers(url)
