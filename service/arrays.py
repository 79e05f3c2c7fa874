"""Sets of arrays in shared folders: a file for each, mapped by all processes that read it.

Knows names, shapes and files. Does not know what the arrays mean, nor when a folder may go.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Awaitable, Callable
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.contract.items import Columns, in_memory
from service.background import aside
from service.shared import SharedFolders

_CONTENTS = "contents.json"


class NewArrays(Protocol):
    """A set that is being made."""

    def allocate(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray[Any, Any]:
        """An array of zeros to be filled."""
        ...

    def cut(self, name: str, rows: int) -> None:
        """Let an array end after ``rows``."""
        ...


Make = Callable[[NewArrays], Awaitable[None]]


async def shared_arrays(shared: SharedFolders, name: str, make: Make) -> Columns:
    """The set of that name, to be read only; made now if it is not there. In the caller's turn.

    What cannot be shared, because the disk is full or may not be written to, is made in memory.
    """

    async def in_files(folder: Path) -> None:
        new = _InFiles(folder)
        await make(new)
        new.complete()

    for _ in range(2):
        folder = await shared.folder(name, in_files)
        found = None if folder is None else await aside(_opened, folder)
        if folder is None or found is not None:
            break
        shared.discard(name)
    if found is None:
        private = InMemory()
        await make(private)
        found = private.arrays
    return found


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
