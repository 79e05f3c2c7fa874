"""Ids of a catalogue without an object for each: packed one after the other, and found by an array of hashes.

Knows texts and row numbers. Does not know what an item is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from models.contract.arrays import IntArray

Hashes = npt.NDArray[np.uint64]

_AT_ONCE = 2048
"""Ids that are hashed without letting other threads run, which takes about 300 us."""


class PackedIds(Sequence[str]):
    """Texts [n] in UTF-8, one after the other. A million of them as Python objects take some 60 MB; each process of a
    service would hold its own.

    packed  uint8, all texts
    ends    int64 [n], where in it each text ends
    """

    __slots__ = ("ends", "packed")

    def __init__(self, packed: npt.NDArray[np.uint8], ends: IntArray) -> None:
        self.packed = packed
        self.ends = ends

    @classmethod
    def of(cls, ids: Sequence[str]) -> PackedIds:
        encoded = [text.encode() for text in ids]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            rows = range(len(self))[at]
            return self._texts(rows.start, rows.stop) if rows.step == 1 else [self[row] for row in rows]
        row = range(len(self))[at]
        return self._texts(row, row + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._texts(start, min(start + _AT_ONCE, len(self)))

    def _texts(self, start: int, stop: int) -> list[str]:
        if start >= stop:
            return []
        first = int(self.ends[start - 1]) if start else 0
        ends = (self.ends[start:stop] - first).tolist()
        blob = self.packed[first : first + ends[-1]].tobytes()
        if blob.isascii():  # then places of bytes are places of characters
            text = blob.decode()
            return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        return [blob[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True)
class HashIndex:
    """Rows by 64-bit hash, in open addressing. A dict keeps every id, and keeps them all over the memory; of this one,
    500 ids touch 500 places, and it is arrays that all processes of a machine can share, and that more rows can enter.

    Two hashes are asked for: ``xxh3`` of the ids of a request, and the ``item_hash`` that live histories hold, which
    would take nine times as long for each request's ids.

    hashes  uint64 [slots], a power of two and at least twice as many as there are rows
    rows    int32 [slots], 0 where a slot is empty
    """

    hashes: Hashes
    rows: npt.NDArray[np.int32]

    @classmethod
    def of(cls, hashes: Hashes, capacity: int) -> HashIndex:
        """An index of ``hashes`` [n], of which the first one has row 1, with room for ``capacity`` rows."""
        slots = 1 << max(3, (2 * capacity).bit_length())
        index = cls(np.zeros(slots, np.uint64), np.zeros(slots, np.int32))
        index.insert(hashes, np.arange(1, len(hashes) + 1))
        return index

    def insert(self, hashes: Hashes, rows: IntArray) -> None:
        """Enter ``rows`` [n]. Of rows with equal hashes only the first to come is found afterwards."""
        left, mask = np.arange(len(hashes)), len(self.rows) - 1
        at = _slots(hashes, mask)
        while len(left):
            # In the order of their slots, which is also how the memory is gone through.
            order = np.argsort(at, kind="stable")
            left, at = left[order], at[order]
            free = self.rows[at] == 0
            first = np.flatnonzero(free)
            first = first[np.concatenate([[True], at[first][1:] != at[first][:-1]])[: len(first)]]
            self.hashes[at[first]], self.rows[at[first]] = hashes[left[first]], rows[left[first]]
            others = self.hashes[at] != hashes[left]
            left, at = left[others], (at[others] + 1) & mask

    def find(self, hashes: Hashes) -> IntArray:
        """Rows of ``hashes`` [n]; 0 for those that are not there."""
        mask = len(self.rows) - 1
        at = _slots(hashes, mask)
        rows: IntArray = self.rows[at].astype(np.int64)
        left = np.flatnonzero((self.hashes[at] != hashes) & (rows != 0))
        while len(left):
            at[left] = (at[left] + 1) & mask
            rows[left] = self.rows[at[left]]
            left = left[(self.hashes[at[left]] != hashes[left]) & (rows[left] != 0)]
        return rows

    def find_ids(self, ids: Sequence[str]) -> IntArray:
        """Rows of ``ids`` [n] in an index of their ``xxh3``; 0 for those that are not there."""
        return self.find(xxh3(ids))


def _slots(hashes: Hashes, mask: int) -> IntArray:
    return (hashes & np.uint64(mask)).astype(np.int64)


def xxh3(ids: Sequence[str]) -> Hashes:
    """uint64 [n]: the hash by which a table finds the ids of a request, the same in every process."""
    if len(ids) <= _AT_ONCE:
        return np.fromiter(map(xxh3_64_intdigest, map(str.encode, ids)), np.uint64, len(ids))
    return np.concatenate([xxh3(ids[at : at + _AT_ONCE]) for at in range(0, len(ids), _AT_ONCE)])
