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

from models.contract.arrays import IntArray as IntArray

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
        encoded = [one.encode() for one in ids]
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
class IdIndex:
    """Rows by id: hashes of the ids in open addressing. A dict keeps every id, and keeps them all over the memory; of
    this one, 500 ids touch 500 places, and it is arrays that all processes of a machine can share. That is also why the
    hash is not Python's, which differs from process to process.

    An id is taken for another one if all 64 bits agree. Ids of one table that do so are looked up by themselves.

    hashes  int64 [slots], a power of two and at least twice as many as there are ids
    rows    int32 [slots], 0 where a slot is empty
    alike   rows of ids whose hash another one has
    """

    hashes: IntArray
    rows: npt.NDArray[np.int32]
    alike: dict[str, int]

    @classmethod
    def of(cls, ids: Sequence[str]) -> IdIndex:
        """Of ids that are distinct; the first one has row 1."""
        n = len(ids)
        slots = 1 << max(3, (2 * n).bit_length())
        made = cls(np.zeros(slots, np.int64), np.zeros(slots, np.int32), {})
        hashes = _hashes(ids)
        left = np.argsort(hashes)
        ordered = hashes[left]
        again = ordered[1:] == ordered[:-1]
        if again.any():
            twice = np.isin(hashes, ordered[1:][again])
            made.alike.update((ids[at], at + 1) for at in np.flatnonzero(twice).tolist())
            left = left[np.concatenate([[True], ~again])]
        # In the order of their slots, which is also how the memory is gone through.
        left = left[np.argsort(hashes[left] & (slots - 1))]
        at = hashes[left] & (slots - 1)
        while len(left):
            free = np.flatnonzero(made.rows[at] == 0)
            one_each = np.concatenate([[True], at[free][1:] != at[free][:-1]]) if len(free) else free
            placed = free[one_each]
            made.hashes[at[placed]], made.rows[at[placed]] = hashes[left[placed]], left[placed] + 1
            others = np.ones(len(left), np.bool_)
            others[placed] = False
            left, at = left[others], (at[others] + 1) & (slots - 1)
            order = np.argsort(at)
            left, at = left[order], at[order]
        return made

    def find(self, ids: Sequence[str]) -> IntArray:
        """Rows of ids; 0 for those that are not there."""
        hashes, mask = _hashes(ids), len(self.rows) - 1
        at = hashes & mask
        rows: IntArray = self.rows[at].astype(np.int64)
        left = np.flatnonzero((self.hashes[at] != hashes) & (rows != 0))
        while len(left):
            at[left] = (at[left] + 1) & mask
            rows[left] = self.rows[at[left]]
            left = left[(self.hashes[at[left]] != hashes[left]) & (rows[left] != 0)]
        if self.alike:
            for position, item_id in enumerate(ids):
                rows[position] = self.alike.get(item_id, rows[position])
        return rows


def _hashes(ids: Sequence[str]) -> IntArray:
    if len(ids) <= _AT_ONCE:
        return np.fromiter(map(xxh3_64_intdigest, map(str.encode, ids)), np.uint64, len(ids)).view(np.int64)
    found = np.empty(len(ids), np.int64)
    for at in range(0, len(ids), _AT_ONCE):
        found[at : at + _AT_ONCE] = _hashes(ids[at : at + _AT_ONCE])
    return found
