"""What all processes of a machine share: folders of files, each made by whoever needs it first and mapped by all.

Two processes of a service hold one copy of an item table, and one that is started again finds the table that it left.
A folder is complete once it has its name. One that was made before the machine was started is not trusted, because
nobody waits for the disk. Knows names, shapes and files. Does not know what the arrays mean.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import mmap
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.contract.items import Columns, in_memory

TURN_SECONDS = 0.05
"""How often a process looks whether another one is done."""

_CONTENTS = "contents.json"
_PARTIAL = ".partial"

log = logging.getLogger(__name__)


class NewArrays(Protocol):
    """A set that is being made."""

    def allocate(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray[Any, Any]:
        """An array of zeros to be filled."""
        ...

    def cut(self, name: str, rows: int) -> None:
        """Let an array end after ``rows``."""
        ...


Make = Callable[[NewArrays], Awaitable[None]]


class SharedArrays:
    """Folders by name, in one that processes of a machine share. A folder that holds arrays is a set."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failing = False

    @property
    def shares(self) -> bool:
        """False once something could not be shared."""
        return not self._failing

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Nobody else on this machine makes or removes sets meanwhile."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("w")
        except OSError as error:
            self._failed(error)
            yield
            return
        with lock:
            while not _locked(lock.fileno()):  # noqa: ASYNC110 - another process has it
                await asyncio.sleep(TURN_SECONDS)
            yield

    async def folder(self, name: str, make: Callable[[Path], Awaitable[None]]) -> Path | None:
        """The folder of that name, filled by ``make`` if it is not there; None if it cannot be shared. In the caller's
        turn."""
        path = self._folder / f"{_boot()}-{name}"
        try:
            if not path.is_dir():
                partial = path.with_suffix(_PARTIAL)
                shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
                partial.mkdir(parents=True)
                await make(partial)
                partial.rename(path)
        except OSError as error:
            self._failed(error)
            return None
        return path

    async def made(self, name: str, make: Make) -> Columns:
        """The set of that name, to be read only; made now if it is not there. In the caller's turn.

        What cannot be shared, because the disk is full or may not be written to, is made in memory.
        """

        async def in_files(folder: Path) -> None:
            new = _InFiles(folder)
            await make(new)
            new.complete()

        for _ in range(2):
            folder = await self.folder(name, in_files)
            found = None if folder is None else await asyncio.to_thread(_opened, folder)
            if folder is None or found is not None:
                break
            shutil.rmtree(folder)  # it is damaged
        if found is None:
            private = InMemory()
            await make(private)
            found = private.arrays
        return found

    def keep(self, names: Collection[str]) -> None:
        """Remove all sets but these. Whoever has mapped one goes on reading it. In the caller's turn."""
        kept = {f"{_boot()}-{name}" for name in names}
        try:
            for path in self._folder.iterdir():
                if path.is_dir() and path.name not in kept:
                    shutil.rmtree(path)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            log.warning("item tables are not shared with other processes, nor kept for the next start: %s", error)
        self._failing = True


class InMemory:
    """A set in this process alone."""

    def __init__(self) -> None:
        self.arrays: Columns = {}

    def allocate(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray[Any, Any]:
        self.arrays[name] = in_memory(name, shape, dtype)
        return self.arrays[name]

    def cut(self, name: str, rows: int) -> None:
        self.arrays[name] = self.arrays[name][:rows]


class _InFiles(InMemory):
    """A set in a new folder, a file for each array."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def allocate(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray[Any, Any]:
        size = prod(shape) * np.dtype(dtype).itemsize
        if size == 0:
            return super().allocate(name, shape, dtype)
        with (self._folder / str(len(self.arrays))).open("x+b") as file:
            # A hole in the file would end the process with SIGBUS if the disk were full when it is written to.
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
        self.arrays[name] = np.frombuffer(mapped, dtype).reshape(shape)
        return self.arrays[name]

    def complete(self) -> None:
        contents = [(name, array.dtype.str, array.shape) for name, array in self.arrays.items()]
        (self._folder / _CONTENTS).write_text(json.dumps(contents))


def _opened(path: Path) -> Columns | None:
    """The arrays of a complete set; None if there is none, or none that can be read."""
    try:
        contents = json.loads((path / _CONTENTS).read_text())
        return {name: _mapped(path / str(at), dtype, shape) for at, (name, dtype, shape) in enumerate(contents)}
    except (OSError, ValueError, TypeError):
        return None


def _mapped(path: Path, dtype: str, shape: list[int]) -> np.ndarray[Any, Any]:
    size = prod(shape) * np.dtype(dtype).itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)
    # Each page is looked at once, or the first requests would pay for it. MAP_POPULATE would do so with the interpreter
    # locked, while requests wait.
    np.frombuffer(mapped, np.uint8)[:: mmap.PAGESIZE].max()
    return np.frombuffer(mapped, dtype).reshape(shape)


def _boot() -> str:
    """What tells one start of the machine from another, or this process from all others where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13]
    except OSError:
        return str(os.getpid())


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
