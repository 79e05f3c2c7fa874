"""The guard of the embedded Valkey: the server ends when all its users were killed, and not before."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from models.valkey import embedded
from models.valkey import server as valkey
from models.valkey.embedded import EmbeddedRedisError, embedded_redis
from tests.models.valkey.test_embedded import ROOT, answers, program, server_of
from tests.models.valkey.test_keep_alive import eventually

_DIES_IN_RESTART = """
import os, signal, sys, time
from pathlib import Path
from models.valkey import embedded
from models.valkey import server as valkey
embedded.LOOK_SECONDS = 0.02
with embedded.embedded_redis(Path(sys.argv[1]), keep_alive=True) as url:
    start = valkey.start
    def start_and_die(*arguments):
        print(start(*arguments).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    valkey.start = start_and_die
    os.kill(valkey.process_at(Path(url.removeprefix("unix://"))), signal.SIGKILL)
    time.sleep(60)
"""


def has_ended(process: int) -> bool:
    """Also if nobody has waited for it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def guards_of(folder: Path) -> list[int]:
    """Process ids of the guards that have the folder's file of presence open."""
    guards = []
    for process in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            if b"valkey/guard.py" not in Path(f"/proc/{process}/cmdline").read_bytes():
                continue
            opened = {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir()}
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder / "presence") in opened:
            guards.append(process)
    return guards


def the_guard_of(folder: Path) -> int:
    """The guard, once it is alone; a server's own process passes for one until it has become the server."""
    eventually(lambda: len(guards_of(folder)) == 1)
    return guards_of(folder)[0]


def kill_the_guard_of(folder: Path) -> int:
    """Which one it was. It has let go of its files: a killed process is a zombie before all its threads have ended."""
    guard = the_guard_of(folder)
    descriptor = os.pidfd_open(guard)
    try:
        os.kill(guard, signal.SIGKILL)
        assert select.select([descriptor], [], [], 30.0)[0]
    finally:
        os.close(descriptor)
    return guard


def test_a_server_whose_only_user_was_killed_ends_and_has_saved(tmp_path: Path) -> None:
    with program(tmp_path) as user:
        server = user.server
        with redis.Redis(unix_socket_path=str(tmp_path / "valkey.sock")) as client:
            client.set("key", "value")
            user.kill()  # the open connection of ours is no reason to stay
            eventually(lambda: has_ended(server))
    eventually(lambda: guards_of(tmp_path) == [])
    with embedded_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.get("key") == b"value"


def test_of_two_users_one_is_killed(tmp_path: Path) -> None:
    with program(tmp_path) as starter, program(tmp_path) as other:
        server = starter.server
        assert other.server == server
        starter.kill()
        guard = the_guard_of(tmp_path)
        assert not has_ended(server)
        other.kill()
        eventually(lambda: has_ended(server) and has_ended(guard))


def test_a_user_that_is_killed_while_it_starts_the_server_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DIES_IN_RESTART, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    eventually(lambda: has_ended(int(ended.stdout)))
    with embedded_redis(tmp_path) as url:
        assert answers(url)


def test_a_killed_guard_is_replaced_by_a_program_that_keeps_the_server_alive(tmp_path: Path) -> None:
    with program(tmp_path, keep_alive=True) as user:
        server = user.server
        guard = kill_the_guard_of(tmp_path)
        assert the_guard_of(tmp_path) != guard
        assert not has_ended(server)
        user.kill()
        eventually(lambda: has_ended(server))


def test_a_killed_guard_is_replaced_by_the_next_program(tmp_path: Path) -> None:
    with program(tmp_path) as first:
        server = first.server
        kill_the_guard_of(tmp_path)
        first.kill()
        with embedded_redis(tmp_path) as url:  # a server that nobody guarded is taken over
            assert server_of(url) == server
            the_guard_of(tmp_path)
    eventually(lambda: has_ended(server))


def test_a_restarted_server_has_one_guard(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url:
        guard = the_guard_of(tmp_path)
        os.kill(server_of(url), signal.SIGKILL)
        eventually(lambda: not answers(url))
        with embedded_redis(tmp_path):
            assert the_guard_of(tmp_path) != guard
    assert not answers(url)
    eventually(lambda: guards_of(tmp_path) == [])


@pytest.mark.parametrize("killed", [True, False])
def test_a_server_whose_folder_was_deleted(tmp_path: Path, killed: bool) -> None:
    folder = tmp_path / "folder"
    with program(folder) as user:
        server = user.server
        shutil.rmtree(folder)
        if killed:
            user.kill()
        else:
            user.leave()
        eventually(lambda: has_ended(server))


@pytest.mark.parametrize("deleted", [True, False])
def test_a_suspended_server(tmp_path: Path, deleted: bool) -> None:
    folder = tmp_path / "folder"
    with program(folder) as user:
        server = user.server
        os.kill(server, signal.SIGSTOP)
        if deleted:
            shutil.rmtree(folder)
        user.kill()
        eventually(lambda: has_ended(server))


def test_a_forked_child_is_present_only_with_its_parent(tmp_path: Path) -> None:
    event = multiprocessing.get_context("spawn").Event()
    with embedded_redis(tmp_path) as url:
        child = multiprocessing.get_context("fork").Process(target=event.wait)
        child.start()
    try:
        assert not answers(url)
        with embedded_redis(tmp_path) as url:
            assert answers(url)
        assert not answers(url)
    finally:
        event.set()
        child.join()


def test_a_program_that_comes_while_the_server_is_stopped_waits(tmp_path: Path) -> None:
    inside = threading.Event()
    leave = threading.Event()

    def use() -> None:
        with embedded_redis(tmp_path):
            inside.set()
            leave.wait(60)

    with embedded._presence(tmp_path) as presence:
        fcntl.flock(presence, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedRedisError, match="is being stopped; it did not end within 0 s"):
            embedded_redis(tmp_path, start_timeout=0.1).__enter__()
        newcomer = threading.Thread(target=use)
        newcomer.start()
        assert not inside.wait(0.2)
    assert inside.wait(60)
    assert answers(f"unix://{tmp_path}/valkey.sock")
    leave.set()
    newcomer.join()


def test_no_second_server_beside_one_whose_socket_was_deleted(tmp_path: Path) -> None:
    with program(tmp_path) as user:
        server = user.server
        (tmp_path / "valkey.sock").unlink()
        with pytest.raises(EmbeddedRedisError, match="no longer listens, did not end within 0 s"):
            embedded_redis(tmp_path, start_timeout=0.1).__enter__()
        assert not has_ended(server)


def test_a_machine_without_pidfds_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: int) -> int:
        raise PermissionError("not on this machine")

    with program(tmp_path) as other:
        assert other.server
        kill_the_guard_of(tmp_path)
        monkeypatch.setattr(os, "pidfd_open", refuse)
        with embedded._presence(tmp_path) as presence, caplog.at_level(logging.WARNING, "models.valkey.embedded"):
            user = embedded._User(tmp_path, presence, 15.0)
            user.enter()
            user.look()
            user.leave()
    assert ["no guard" in record.getMessage() for record in caplog.records] == [True]
    assert valkey.shut_down(tmp_path / "valkey.sock")  # nobody else would, now that its user was killed


@pytest.mark.parametrize("absent", ["os.pidfd_open", "signal.pidfd_send_signal"])
def test_a_python_without_pidfds_starts_the_server_without_a_guard(tmp_path: Path, absent: str) -> None:
    script = Path(valkey.__file__).with_name("guard.py")
    code = f"import os, runpy, signal; del {absent}; runpy.run_path({str(script)!r}, run_name='__main__')"
    with (tmp_path / "presence").open("w") as presence, (tmp_path / "guard").open("w") as lock:
        descriptors = (presence.fileno(), lock.fileno())
        server = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, "start", *map(str, descriptors), "/bin/echo", "the server"],
            pass_fds=descriptors, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert server.stdout == "the server\n"
    assert "this server has no guard" in server.stderr
