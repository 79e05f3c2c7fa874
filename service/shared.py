"""What all processes of a machine share: folders of files, each made by whoever needs it first and then only read.

Two processes of a service hold one copy of an item table, and one that is started again finds the table that it left.
A folder is complete once it has its name. One that was made before the machine was started is not trusted, because
nobody waits for the disk. Knows names, locks and folders. Does not know what lies in them.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

TURN_SECONDS = 0.05
TELL_SECONDS = 10.0
"""How often a process looks whether another one is done, and when it says that it waits."""
FORGOTTEN_SECONDS = 600.0
"""How long a folder that nobody uses is kept."""

_OURS = "lorank-"
"""Names of all that is made here begin so; whatever else lies in the folder is somebody else's."""
_PARTIAL, _GONE = ".partial", ".gone"

log = logging.getLogger(__name__)


class SharedFolders:
    """Folders by name, in one that processes of a machine share.

    What this process has got stays locked as in use until ``keep`` is told otherwise.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}
        self._has_turn = False
        self._failing = False

    @property
    def shares(self) -> bool:
        """False once something could not be shared."""
        return not self._failing

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Nobody else on this machine makes or removes folders meanwhile. Without locks nothing is shared."""
        with ExitStack() as stack:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((self._folder / f"{_OURS}lock").open("w"))
                await self._lock(lock.fileno())
                self._has_turn = True
            except OSError as error:
                self._failed(error)
            try:
                yield
            finally:
                self._has_turn = False

    async def _lock(self, descriptor: int) -> None:
        started = time.monotonic()
        told = False
        while not _locked(descriptor, fcntl.LOCK_EX):
            if not told and time.monotonic() > started + TELL_SECONDS:
                log.info("waiting for another process, which makes an item table")
                told = True
            await asyncio.sleep(TURN_SECONDS)

    async def folder(self, name: str, make: Callable[[Path], Awaitable[None]]) -> Path | None:
        """The folder of that name, filled by ``make`` if it is not there; None if it cannot be shared. In the caller's
        turn."""
        if not self._has_turn:
            return None
        path = self._path(name)
        try:
            if not path.is_dir():
                await self._make(path, make)
            if name not in self._held:
                self._held[name] = _in_use(path)
        except OSError as error:
            self._failed(error)
            return None
        return path

    def has(self, *names: str) -> bool:
        """Whether all these folders are there, as far as can be seen without a turn."""
        return all(self._path(name).is_dir() for name in names)

    def discard(self, name: str) -> None:
        """Remove a folder that turned out to be damaged, so that it is made again. In the caller's turn."""
        self._let_go(name)
        try:
            _removed(self._path(name))
        except OSError as error:
            self._failed(error)

    def keep(self, names: Collection[str]) -> None:
        """Let go of all folders but these, and remove those that no process uses, nor is about to: a folder may have
        been made for somebody who comes in a moment. While somebody has the turn, nothing is removed."""
        for name in self._held.keys() - names:
            self._let_go(name)
        if not self.shares:
            return
        kept = {self._path(name) for name in names}
        try:
            with (self._folder / f"{_OURS}lock").open("w") as lock:
                if not _locked(lock.fileno(), fcntl.LOCK_EX):
                    return
                for path in self._folder.glob(f"{_OURS}*/"):
                    if path not in kept and (path.suffix in (_PARTIAL, _GONE) or _is_forgotten(path)):
                        _removed(path)
        except OSError as error:
            log.warning("old item tables are not removed: %s", error)

    def close(self) -> None:
        """Let go of everything, and leave it for the next start."""
        for name in list(self._held):
            self._let_go(name)

    def _path(self, name: str) -> Path:
        return self._folder / f"{_OURS}{_boot()}-{name}"

    async def _make(self, path: Path, make: Callable[[Path], Awaitable[None]]) -> None:
        # A name of its own: a thread of a load that was cancelled may still be writing to an earlier one.
        partial = path.with_name(f"{path.name}-{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
        partial.mkdir()
        try:
            await make(partial)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _let_go(self, name: str) -> None:
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            log.warning("item tables are not shared with other processes, nor kept for the next start: %s", error)
        self._failing = True


def _boot() -> str:
    """What tells one start of the machine from another, or this process from all others where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13]
    except OSError:
        return str(os.getpid())


def _locked(descriptor: int, how: int) -> bool:
    """Whether the lock was free. OSError where there are no locks."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(path: Path) -> int:
    """A descriptor that says, for as long as it is open, that somebody uses a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_forgotten(path: Path) -> bool:
    """Whether a folder is old and nobody uses it."""
    if time.time() < path.stat().st_mtime + FORGOTTEN_SECONDS:
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _locked(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _removed(path: Path) -> None:
    """Under another name first: a folder that is half removed must not look complete."""
    if path.is_dir() and path.suffix != _GONE:
        path = path.rename(path.with_name(f"{path.name}-{secrets.token_hex(4)}{_GONE}"))
    shutil.rmtree(path, ignore_errors=True)
