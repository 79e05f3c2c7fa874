"""StoredArrays on disk by content: what was computed once for a text is read the next time, by whichever run.

An address is a hash, so a store holds no text, and a changed text has another address. Knows neither what computed an
array nor what for. Whose text it was is noted beside the stores (``OwnerTable``): what is of users who are forgotten
goes, unless somebody else has the same text.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
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


def owner_mark(user_id: str) -> str:
    """16 hex digits by which a store knows a user whose text it holds. Not the id: stores are handed on."""
    return hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def shape_in_words(array: Any) -> str:
    """The shape and type of an array or a number, for people: "2 x 8 numbers (float16)"."""
    shape = " x ".join(str(length) for length in np.shape(array)) or "1"
    return f"{shape} numbers ({np.asarray(array).dtype})"


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

    def remove(self, at: Collection[str]) -> int:
        """Remove what is stored at these addresses; how many there were. DataError if the file is damaged."""
        if not self.path.is_file():
            return 0
        with FileLock(self.path.with_suffix(".lock")):
            stored = self.read()
            left = {address: row for address, row in stored.items() if address not in at}
            if not left:
                self.path.unlink()
            elif len(left) < len(stored):
                write_arrays(self.path, **{"keys": np.array(list(left)), self.column: np.stack(list(left.values()))})
        return len(stored) - len(left)


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

    def remove(self, at: Collection[str]) -> int:
        """Remove what is stored at these addresses; how many there were."""
        return sum(ArrayFile(path).remove(at) for path in sorted(self.path.glob("*.npz")))


OWNERS_SCHEMA = "CREATE TABLE IF NOT EXISTS owners (key TEXT, owner TEXT, PRIMARY KEY (owner, key)) WITHOUT ROWID"
_OWNERS_BY_KEY = "CREATE INDEX IF NOT EXISTS owners_by_key ON owners (key)"


class OwnerTable:
    """Owners, as ``owner_mark`` has them, of what a store holds under its keys: a table of one SQLite connection.
    Transactions and locks are the caller's."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        for statement in (OWNERS_SCHEMA, _OWNERS_BY_KEY):
            connection.execute(statement)

    def note(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Note (key, owner) pairs."""
        self._connection.executemany("INSERT OR IGNORE INTO owners VALUES (?, ?)", pairs)

    def keys(self, owner: str) -> list[str]:
        """The keys that an owner has, also beside others."""
        query = "SELECT key FROM owners WHERE owner = ? ORDER BY key"
        return [key for (key,) in self._connection.execute(query, (owner,)).fetchall()]

    def remove(self, owner: str) -> list[str]:
        """Forget an owner; the keys that nobody else owns."""
        rows = self._connection.execute("SELECT key FROM owners WHERE owner = ?", (owner,)).fetchall()
        self._connection.execute("DELETE FROM owners WHERE owner = ?", (owner,))
        others = "SELECT 1 FROM owners WHERE key = ?"
        return [key for (key,) in rows if self._connection.execute(others, (key,)).fetchone() is None]


@contextmanager
def owner_table(path: Path) -> Iterator[OwnerTable]:
    """The owner table in a file of its own, in one transaction. sqlite3.Error if it cannot be used."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=60.0, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield OwnerTable(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
