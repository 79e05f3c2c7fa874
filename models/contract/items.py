"""Packed item feature records, and the in-process item table that the ranker gathers candidates from.

An item's features are encoded once, by the offline job, with the schema of its release. The service joins the
packed records of a whole catalogue into arrays; a candidate is then a row number.

Record layout, little-endian::

    0  magic b"LI"  2  version u8  3  reserved u8  4  index u32  8  written_at i64  16 schema 8 bytes
    24 categorical i32[S]  .. numeric f32[3]  .. owner utf-8  .. crc32 u32 of all before
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from models.contract.events import item_hash
from models.contract.knowledge import FloatArray, RecordError
from models.contract.schema import FeatureSchema

IntArray = npt.NDArray[np.int64]

_HEADER = struct.Struct("<2sBBIq8s")
MAGIC, VERSION = b"LI", 1

ITEM_NUMERIC = ("log_count", "mean_value", "liked_rate")
"""Running statistics of an item, in this order; see ``item_statistics``."""

_PRIOR_WEIGHT = 10.0


def item_statistics(
    schema: FeatureSchema, count: npt.ArrayLike, value_sum: npt.ArrayLike, liked: npt.ArrayLike
) -> FloatArray:
    """Numeric features [..., 3] of items from their interactions so far: how many, what values, how many liked.

    Means are smoothed with ten prior interactions, so an item without history gets the prior, not zero.
    """
    n = np.asarray(count, np.float64)
    center = schema.value_center
    mean = (np.asarray(value_sum, np.float64) - n * center) / (n + _PRIOR_WEIGHT) / schema.value_scale
    rate = (np.asarray(liked, np.float64) + _PRIOR_WEIGHT * schema.prior_liked) / (n + _PRIOR_WEIGHT)
    return np.stack([np.log1p(n) / 5.0, mean, 2.0 * rate - 1.0], axis=-1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """Encoded features of one item. ``index`` is its row in the model's id embedding, 0 if the model has none."""

    owner: str
    schema: str
    index: int
    categorical: tuple[int, ...]
    numeric: tuple[float, ...]
    written_at: int

    def pack(self) -> bytes:
        header = _HEADER.pack(MAGIC, VERSION, 0, self.index, self.written_at, bytes.fromhex(self.schema))
        cells = np.asarray(self.categorical, "<i4").tobytes() + np.asarray(self.numeric, "<f4").tobytes()
        body = header + cells + self.owner.encode()
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def unpack(cls, blob: bytes, owner: str, schema: FeatureSchema) -> ItemRecord:
        """Inverse of ``pack``. RecordError unless the record is whole and of this owner and schema."""
        owner_at = _HEADER.size + 4 * (schema.item_slots + len(ITEM_NUMERIC))
        if len(blob) < owner_at + 4 or blob[:2] != MAGIC or blob[2] != VERSION:
            raise RecordError("item record of unknown kind or length")
        _, _, _, index, written_at, schema_bytes = _HEADER.unpack_from(blob)
        if schema_bytes.hex() != schema.fingerprint:
            raise RecordError(f"item record is of schema {schema_bytes.hex()}, expected {schema.fingerprint}")
        if zlib.crc32(blob[:-4]) != struct.unpack_from("<I", blob, len(blob) - 4)[0]:
            raise RecordError("item record is damaged")
        if blob[owner_at:-4] != owner.encode():
            raise RecordError("item record belongs to another owner")
        categorical = np.frombuffer(blob, "<i4", schema.item_slots, _HEADER.size)
        numeric = np.frombuffer(blob, "<f4", len(ITEM_NUMERIC), _HEADER.size + 4 * schema.item_slots)
        return cls(owner, schema_bytes.hex(), index, tuple(categorical.tolist()), tuple(numeric.tolist()), written_at)


@dataclass(frozen=True, slots=True)
class ItemTable:
    """A catalogue as arrays. Row 0 is the unknown item: no id, no fields, prior statistics, no knowledge.

    ids        row -> item id ("" at row 0)
    index      int64 [N]      row of the model's id embedding
    categorical int64 [N, S]
    numeric    float32 [N, 3]
    vectors    float32 [N, Wi] joined item knowledge, zeros where missing
    expires_at int64 [N, K]   of the knowledge in each of the schema's K item spaces; 0 where missing
    """

    ids: tuple[str, ...]
    index: IntArray
    categorical: IntArray
    numeric: FloatArray
    vectors: FloatArray
    expires_at: IntArray
    _rows: _Index
    _sorted_hashes: npt.NDArray[np.uint64]
    _hash_rows: IntArray

    @classmethod
    def build(
        cls,
        schema: FeatureSchema,
        ids: Sequence[str],
        index: npt.ArrayLike,
        categorical: npt.ArrayLike,
        numeric: npt.ArrayLike,
        vectors: FloatArray,
        expires_at: npt.ArrayLike,
    ) -> ItemTable:
        """A table of the given items (without the unknown row, which is added here). ValueError if an id repeats."""
        n = len(ids)
        if len(set(ids)) != n or "" in ids:
            raise ValueError("item ids must be unique and not empty")
        hashes = np.fromiter((item_hash(item_id) for item_id in ids), np.uint64, n)
        order = np.argsort(hashes)
        unknown = item_statistics(schema, 0, 0, 0)[None]
        return cls(
            ids=("", *ids),
            index=np.concatenate([[0], np.asarray(index, np.int64).reshape(n)]),
            categorical=_with_zero_row(np.asarray(categorical, np.int64).reshape(n, schema.item_slots)),
            numeric=np.concatenate([unknown, np.asarray(numeric, np.float32).reshape(n, len(ITEM_NUMERIC))]),
            vectors=_with_zero_row(np.asarray(vectors, np.float32).reshape(n, schema.item_width)),
            expires_at=_with_zero_row(np.asarray(expires_at, np.int64).reshape(n, len(schema.item_knowledge))),
            _rows=_Index.of(ids),
            _sorted_hashes=hashes[order],
            _hash_rows=order.astype(np.int64) + 1,
        )

    def __len__(self) -> int:
        """Number of rows, the unknown row included."""
        return len(self.ids)

    def rows_of(self, item_ids: Sequence[str]) -> IntArray:
        """Row numbers of item ids; 0 for those the table does not hold."""
        return self._rows.find(item_ids)

    def rows_of_hashes(self, hashes: npt.NDArray[np.uint64]) -> IntArray:
        """Row numbers of ``item_hash`` values; 0 for those the table does not hold."""
        if len(self._sorted_hashes) == 0:
            return np.zeros(hashes.shape, np.int64)
        at = np.minimum(np.searchsorted(self._sorted_hashes, hashes), len(self._sorted_hashes) - 1)
        return np.where(self._sorted_hashes[at] == hashes, self._hash_rows[at], 0)


@dataclass(frozen=True, slots=True)
class _Index:
    """Rows by id: Python's hashes of the ids in open addressing. A dict keeps every id, and keeps them all over the
    memory; of this one, 500 ids touch 500 places, and nothing but arrays is kept.

    An id is taken for another one if all 64 bits agree. Ids of one table that do so are looked up by themselves.

    hashes  int64 [slots], a power of two and at least twice as many as there are ids
    rows    int64 [slots], 0 where a slot is empty
    alike   rows of ids whose hash another one has
    """

    hashes: IntArray
    rows: IntArray
    alike: dict[str, int]

    @classmethod
    def of(cls, ids: Sequence[str]) -> _Index:
        n = len(ids)
        slots = 1 << max(3, (2 * n).bit_length())
        made = cls(np.zeros(slots, np.int64), np.zeros(slots, np.int64), {})
        hashes = _hashes(ids)
        _, first, times = np.unique(hashes, return_index=True, return_counts=True)
        if len(first) != n:
            twice = np.isin(hashes, hashes[first[times > 1]])
            made.alike.update((ids[at], at + 1) for at in np.flatnonzero(twice).tolist())
        left = np.sort(first)
        at = hashes[left] & (slots - 1)
        while len(left):
            free = np.flatnonzero(made.rows[at] == 0)
            _, one_each = np.unique(at[free], return_index=True)
            placed = free[one_each]
            made.hashes[at[placed]], made.rows[at[placed]] = hashes[left[placed]], left[placed] + 1
            others = np.ones(len(left), np.bool_)
            others[placed] = False
            left, at = left[others], (at[others] + 1) & (slots - 1)
        return made

    def find(self, ids: Sequence[str]) -> IntArray:
        hashes, mask = _hashes(ids), len(self.rows) - 1
        at = hashes & mask
        rows: IntArray = self.rows[at]
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
    return np.fromiter(map(hash, ids), np.int64, len(ids))


_Cell = TypeVar("_Cell", bound=np.generic)


def _with_zero_row(array: npt.NDArray[_Cell]) -> npt.NDArray[_Cell]:
    return np.concatenate([np.zeros((1, *array.shape[1:]), array.dtype), array])
