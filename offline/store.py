"""StoredArrays on disk by content: what was computed once for a text is read the next time, by whichever run.

An address is a hash, so a store holds no text, and a changed text has another address. Knows neither what computed an
array nor what for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from offline.data.files import read_arrays, write_arrays

StoredArrays = dict[str, Any]
"""Rows of one array (or single numbers) by address."""


def addresses(texts: Sequence[str], source: str | None = None) -> list[str]:
    """The address of each text: 32 hex digits. ``source`` names what computes, where a store is of several."""
    prefix = "" if source is None else f"{source}\0"
    return [hashlib.sha256(f"{prefix}{text}".encode()).hexdigest()[:32] for text in texts]


def adopt(arrays: StoredArrays, at: Sequence[str], former: Mapping[str, Any], former_at: Sequence[str]) -> None:
    """Give ``arrays`` at the addresses ``at`` what they lack and ``former`` has at the addresses of an earlier name."""
    for address, former_address in zip(at, former_at, strict=True):
        if former_address in former:
            arrays.setdefault(address, former[former_address])


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """A store in one file, written anew with every addition; its rows are called ``column`` there."""

    path: Path
    column: str = "vectors"

    def read(self) -> StoredArrays:
        """All arrays; none without a file. DataError if it is damaged."""
        if not self.path.is_file():
            return {}
        arrays = read_arrays(self.path)
        return dict(zip(arrays["keys"].tolist(), arrays[self.column], strict=True))

    def add(self, arrays: StoredArrays) -> StoredArrays:
        """Store ``arrays`` (at least one) beside those that other runs stored meanwhile, which stay as they are;
        returns all of them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            merged = arrays | self.read()
            write_arrays(self.path, **{"keys": np.array(list(merged)), self.column: np.stack(list(merged.values()))})
        return merged


@dataclass(frozen=True, slots=True)
class ArrayFolder:
    """A store to which every addition adds a file, so that it costs what is new; needs no lock."""

    path: Path

    def read(self) -> StoredArrays:
        """All arrays. DataError if a file is damaged."""
        arrays: StoredArrays = {}
        for path in sorted(self.path.glob("*.npz")):
            # only two runs at once can store an address twice; then all later runs agree on one
            for address, row in ArrayFile(path).read().items():
                arrays.setdefault(address, row)
        return arrays

    def add(self, arrays: StoredArrays) -> None:
        """Store ``arrays`` (at least one) in a file of their own."""
        name = hashlib.sha256("".join(arrays).encode()).hexdigest()[:16]
        write_arrays(self.path / f"{name}.npz", keys=np.array(list(arrays)), vectors=np.stack(list(arrays.values())))
