"""The embedded Redis: shared by programs, stopped by the last of them, durable, and clear about what went wrong."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from models.valkey.embedded import EmbeddedRedisError, embedded_redis, holds_data

_PROGRAM = """
import sys
from pathlib import Path
import redis
from models.valkey.embedded import embedded_redis
print("ready", flush=True)
sys.stdin.readline()
with embedded_redis(Path(sys.argv[1]), keep_alive=sys.argv[2:] == ["keep"]) as url:
    with redis.Redis.from_url(url) as client:
        print(client.info("server")["process_id"], flush=True)
    sys.stdin.read()
"""
ROOT = Path(__file__).parents[3]


class Program:
    """Another program that uses the embedded server of a folder until it is told to leave."""

    def __init__(self, folder: Path, *, wait: bool, keep_alive: bool) -> None:
        command = [sys.executable, "-c", _PROGRAM, str(folder), *(["keep"] if keep_alive else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._server: int | None = None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        if not wait:
            self.go()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    @property
    def server(self) -> int:
        """Process id of the server it uses; waits until it does."""
        if self._server is None:
            assert self._process.stdout is not None
            self._server = int(self._process.stdout.readline())
        return self._server

    def leave(self) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=60)


@contextmanager
def program(folder: Path, *, wait: bool = False, keep_alive: bool = False) -> Iterator[Program]:
    """With ``wait`` it turns to the server only after ``go``."""
    user = Program(folder, wait=wait, keep_alive=keep_alive)
    try:
        yield user
    finally:
        user.kill()


def server_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        info: Any = client.info("server")
    return int(info["process_id"])


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def test_one_program_starts_and_stops_it(tmp_path: Path) -> None:
    with embedded_redis(tmp_path / "made" / "here") as url:
        assert url == f"unix://{tmp_path}/made/here/valkey.sock"
        assert answers(url)
    assert not answers(url)
    assert not (tmp_path / "made" / "here" / "valkey.sock").exists()


def test_data_survives_a_restart(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        first = server_of(url)
        client.set("key", b"\0value")
        client.xadd("stream", {"a": "b"})
    with embedded_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert server_of(url) != first
        assert client.get("key") == b"\0value"
        assert client.xlen("stream") == 1


def test_a_folder_holds_data_once_something_was_written(tmp_path: Path) -> None:
    assert not holds_data(tmp_path)
    with embedded_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert not holds_data(tmp_path), "a server that nobody wrote to"
        rewritten(client)
        assert not holds_data(tmp_path)
        client.set("key", secrets.token_bytes(1000))
        assert holds_data(tmp_path)
        rewritten(client)  # from one file into the other
        assert holds_data(tmp_path)
    assert holds_data(tmp_path)
    assert not holds_data(tmp_path / "appendonlydir")
    assert not holds_data(tmp_path / "valkey.log")


def rewritten(client: redis.Redis) -> None:
    """Let the server write its append-only files anew."""
    client.bgrewriteaof()
    while True:
        state: Any = client.info("persistence")
        if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
            return
        time.sleep(0.01)


def test_two_programs_share_one_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    with program(tmp_path) as other:
        with embedded_redis(tmp_path) as url:
            mine = server_of(url)
            assert mine == other.server
        assert answers(url)  # the other one is still there
        other.leave()
        assert not answers(url)


def test_the_starter_may_leave_first(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with embedded_redis(tmp_path) as url:
            other = stack.enter_context(program(tmp_path))
            assert other.server == server_of(url)
        assert server_of(url) == other.server
        other.leave()
        assert not answers(url)


def test_one_program_may_use_it_twice(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url:
        with embedded_redis(tmp_path) as again:
            assert again == url
        assert answers(url)
    assert not answers(url)


def test_programs_that_start_at_once_get_one_server(tmp_path: Path) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(program(tmp_path, wait=True)) for _ in range(4)]
        for other in others:
            other.go()
        with embedded_redis(tmp_path) as url:
            assert {other.server for other in others} == {server_of(url)}
        for other in others:
            assert answers(url)
            other.leave()
        assert not answers(url)


def test_a_killed_program_does_not_keep_the_server(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url:
        with program(tmp_path) as other:
            assert other.server == server_of(url)
            other.kill()
        assert answers(url)
    assert not answers(url)


def test_folders_do_not_see_each_other(tmp_path: Path) -> None:
    with (
        embedded_redis(tmp_path / "a") as url,
        embedded_redis(tmp_path / "b") as other_url,
        redis.Redis.from_url(url) as first,
        redis.Redis.from_url(other_url) as second,
    ):
        first.set("key", "value")
        assert second.get("key") is None


def test_a_folder_too_deep_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with embedded_redis(deep) as url:
        assert len(url.removeprefix("unix://")) <= 107
        with program(deep) as other:
            assert other.server == server_of(url)
    assert not answers(url)
    with embedded_redis(deep.with_name("f" * 60)) as another:
        assert another != url


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("this is no manifest\n")
    with pytest.raises(EmbeddedRedisError, match=r"ended with status 1; its log ends with: (?s:.*)manifest"):
        embedded_redis(tmp_path).__enter__()


def test_a_server_that_is_too_slow_is_reported_and_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="did not start within 0 s"):
        embedded_redis(tmp_path, start_timeout=0.0).__enter__()
    with embedded_redis(tmp_path) as url:
        assert answers(url)


def test_an_exception_inside_still_stops_it(tmp_path: Path) -> None:
    def fail() -> None:
        with embedded_redis(tmp_path):
            raise LookupError("in the program")

    with pytest.raises(LookupError, match="in the program"):
        fail()
    assert not answers(f"unix://{tmp_path}/valkey.sock")


def test_a_server_that_somebody_shut_down_is_no_error(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        client.shutdown(nosave=True)
    assert not answers(url)
