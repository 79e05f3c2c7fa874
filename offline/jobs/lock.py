"""One job at a time per work folder: two at once would pay prompts twice and overwrite each other's files.

The kernel's lock on the file is the truth: it ends with the process that took it, however that ends. The text in the
file only tells people who that is. It is emptied with the lock and checked against the processes there are, so that
what a killed job left behind is never shown as the holder; of a process on another host the lock itself is asked.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

_LOOK_S, _BETWEEN_S = 0.05, 0.02
"""Whoever only looks has the lock for microseconds: a job that finds it taken tries again for so long, so often."""


class LockedError(RuntimeError):
    """Another job holds the folder. ``holder`` says who, if it has said so."""

    def __init__(self, folder: Path, holder: Holder | None) -> None:
        who = "by a process that has not said who it is" if holder is None else f"by {holder.described()}"
        super().__init__(f"another job is at work in {folder}: held {who}")
        self.holder = holder


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a folder. ``since`` is ISO 8601 in UTC; ``begun`` tells two processes of one number apart (Linux)."""

    pid: int
    job: str
    host: str
    since: str
    begun: str = ""

    @classmethod
    def me(cls, job: str) -> Holder:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), job, socket.gethostname(), since, _begun(os.getpid()))

    def described(self) -> str:
        return f"`{self.job}`, process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is on another host, or in another container, whose processes cannot be seen from here."""
        return self.host != socket.gethostname()

    def lives(self) -> bool:
        """Whether the process may still be there; always true of one that is elsewhere."""
        if self.is_elsewhere:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it is there, and another user's
        return _begun(self.pid) == self.begun


@contextmanager
def exclusive(folder: Path, job: str) -> Iterator[None]:
    """Hold ``folder``, which is made if need be. LockedError, at once, if another job holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    try:
        lock = FileLock(path).acquire(timeout=_LOOK_S, poll_interval=_BETWEEN_S)
    except Timeout:
        raise LockedError(folder, _read(path)) from None
    with lock:
        try:
            path.write_text(json.dumps(asdict(Holder.me(job))), encoding="utf-8")
            yield
        finally:
            path.write_text("", encoding="utf-8")


def holder(folder: Path) -> Holder | None:
    """Who holds ``folder``, as far as can be told; None if nobody does.

    The lock itself is tried only where the text names a process elsewhere, for an instant that ``exclusive`` waits out.
    """
    holding = _read(folder / "lock")
    if holding is None or not holding.is_elsewhere:
        return holding
    try:
        with FileLock(folder / "lock", timeout=0):
            return None
    except (Timeout, PermissionError):  # who may not write the file cannot try the lock, and believes the text
        return holding


def _read(path: Path) -> Holder | None:
    try:
        holding = Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # no file, or an empty one: whoever took the lock is about to write
    return holding if holding.lives() else None


def _begun(pid: int) -> str:
    """The process's time of birth in clock ticks since boot; "" where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
