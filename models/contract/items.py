"""Packed item feature records, and the in-process item table that the ranker gathers candidates from.

An item's features are encoded once, by the offline job, with the schema of its release. The service joins the
packed records of a whole catalogue into arrays; a candidate is then a row number.

Layout of a record, little-endian, written by ``packing`` and read by ``bulk``::

    0  magic b"LI"  2  version u8  3  reserved u8  4  index u32  8  written_at i64  16 schema 8 bytes
    24 categorical i32[S]  .. numeric f32[N]  .. owner utf-8  .. crc32 u32 of all before
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray, IntArray
from models.contract.events import item_hash
from models.contract.lookup import HashIndex, PackedIds, xxh3
from models.contract.schema import FeatureSchema

Columns = dict[str, "np.ndarray[Any, Any]"]
"""Arrays with a row for each item, by name."""

MAGIC, VERSION = b"LI", 1

FEATURE_COLUMNS = ("index", "categorical", "numeric", "vectors", "expires_at")
"""Columns of an item table that its items' records fill."""

_PRIOR_WEIGHT = 10.0
_TREND_WEIGHT = 3.0
"""Interactions that an item lately had as expected, beside those that it had."""


@dataclass(frozen=True, slots=True)
class Recent:
    """Counts that forget by the clock, halved in each of K half-lives: those of items [..., K], those of all items
    together [..., K], and the number of all interactions so far [...]."""

    of_items: npt.NDArray[np.float64]
    of_all: npt.NDArray[np.float64]
    interactions: npt.NDArray[np.float64]


def item_statistics(
    schema: FeatureSchema,
    count: npt.ArrayLike,
    value_sum: npt.ArrayLike,
    liked: npt.ArrayLike,
    recent: Recent | None = None,
) -> FloatArray:
    """Numeric features [..., N] of items from their interactions so far: how many, what values, how many liked, and of
    a schema with half-lives how popular an item is lately, compared with always; ``recent`` is None of items without
    interactions.

    Means are smoothed with ten prior interactions, so an item without history gets the prior, not zero. What is lately
    is a share of what happened lately: a count would say how busy the service is.
    """
    n = np.asarray(count, np.float64)
    center = schema.value_center
    mean = (np.asarray(value_sum, np.float64) - n * center) / (n + _PRIOR_WEIGHT) / schema.value_scale
    rate = (np.asarray(liked, np.float64) + _PRIOR_WEIGHT * schema.prior_liked) / (n + _PRIOR_WEIGHT)
    numbers = np.stack([np.log1p(n) / 5.0, mean, 2.0 * rate - 1.0], axis=-1)
    if recent is None:
        trend = np.zeros((*n.shape, len(schema.half_lives_ms)))
    else:
        share = n / np.maximum(recent.interactions, 1.0)
        trend = np.log((recent.of_items + _TREND_WEIGHT) / (recent.of_all * share[..., None] + _TREND_WEIGHT))
    return np.concatenate([numbers, trend / 2.0], axis=-1).astype(np.float32)


def liked_count(schema: FeatureSchema, numeric: FloatArray) -> FloatArray:
    """How many interactions liked each item [N], from numeric features [N, ..]: the inverse of ``item_statistics``."""
    count = np.expm1(5.0 * numeric[:, 0])
    rate = (numeric[:, 2] + 1.0) / 2.0
    return np.asarray(rate * (count + _PRIOR_WEIGHT) - _PRIOR_WEIGHT * schema.prior_liked, np.float32)


@dataclass(frozen=True, slots=True)
class ItemTable:
    """A catalogue as arrays. Row 0 is the unknown item: no id, no fields, prior statistics, no knowledge.

    ids        row -> item id ("" at row 0)
    index      int64 [N]      row of the model's id embedding
    categorical int64 [N, S]
    numeric    float32 [N, item_numbers of the schema]
    vectors    float32 [N, Wi] joined item knowledge, zeros where missing
    expires_at int64 [N, K]   of the knowledge in each of the schema's K item spaces; 0 where missing
    """

    ids: Sequence[str]
    index: IntArray
    categorical: IntArray
    numeric: FloatArray
    vectors: FloatArray
    expires_at: IntArray
    _by_id: HashIndex
    _by_event: HashIndex
    _alike: dict[str, int]

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
        if len(set(ids)) != len(ids) or "" in ids:
            raise ValueError("item ids must be unique and not empty")
        columns = blank_columns(schema, len(ids))
        given = (index, categorical, numeric, vectors, expires_at)
        for column, values in zip(columns.values(), given, strict=True):
            column[1:] = np.asarray(values).reshape(column[1:].shape)
        return cls.of(columns | lookup_columns(ids, len(ids)), len(ids))

    @classmethod
    def of(cls, columns: Columns, items: int) -> ItemTable:
        """The table of the first ``items`` of ``blank_columns`` that were filled, and of their ``lookup_columns``."""
        ids = PackedIds(columns["ids"], columns["id_ends"])
        return cls(
            ids=ids,
            **{name: columns[name][: items + 1] for name in FEATURE_COLUMNS},
            _by_id=HashIndex(columns["id_hashes"], columns["id_rows"]),
            _by_event=HashIndex(columns["event_hashes"], columns["event_rows"]),
            _alike={ids[row]: row for row in columns["alike_rows"].tolist()},
        )

    def __len__(self) -> int:
        """Number of rows, the unknown row included."""
        return len(self.ids)

    def rows_of(self, item_ids: Sequence[str]) -> IntArray:
        """Row numbers of item ids; 0 for those the table does not hold. An id is taken for another one if all 64 bits
        of their hashes agree; ids of the table that do so are looked up by themselves."""
        rows = self._by_id.find_ids(item_ids)
        if self._alike:
            for position, item_id in enumerate(item_ids):
                rows[position] = self._alike.get(item_id, rows[position])
        return rows

    def rows_of_hashes(self, hashes: npt.NDArray[np.uint64]) -> IntArray:
        """Row numbers of ``item_hash`` values; 0 for those the table does not hold."""
        return self._by_event.find(hashes.reshape(-1)).reshape(hashes.shape)


def blank_columns(schema: FeatureSchema, items: int) -> Columns:
    """The features of ``items`` of which nothing is known yet, by the names that ``ItemTable`` has for them, with the
    unknown item before them."""
    shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
        "index": ((), np.int64),
        "categorical": ((schema.item_slots,), np.int64),
        "numeric": ((schema.item_numbers,), np.float32),
        "vectors": ((schema.item_width,), np.float32),
        "expires_at": ((len(schema.item_knowledge),), np.int64),
    }
    columns: Columns = {name: np.zeros((items + 1, *cells), dtype) for name, (cells, dtype) in shapes.items()}
    columns["numeric"][:] = item_statistics(schema, 0, 0, 0)
    return columns


def lookup_columns(ids: Sequence[str], capacity: int) -> Columns:
    """Columns by which rows of items are found, with room for ``capacity`` items. Ids are distinct and not empty."""
    packed, nothing = PackedIds.of([""]), np.zeros(0, np.uint64)
    by_id, by_event = HashIndex.of(nothing, capacity), HashIndex.of(nothing, capacity)
    columns: Columns = {
        "ids": packed.packed, "id_ends": packed.ends, "alike_rows": np.zeros(0, np.int64),
        "id_hashes": by_id.hashes, "id_rows": by_id.rows, "event_hashes": by_event.hashes, "event_rows": by_event.rows,
    }  # fmt: skip
    append_ids(columns, ids)
    return columns


def append_ids(columns: Columns, ids: Sequence[str]) -> None:
    """Let ``lookup_columns`` find more items, whose ids are new, distinct and not empty, in the next rows. The hashes
    are entered in place; ids, ends and rows of ids that share their hash are new arrays."""
    first, packed = len(columns["id_ends"]), PackedIds.of(ids)
    rows, hashes = np.arange(first, first + len(ids)), xxh3(ids)
    by_id = HashIndex(columns["id_hashes"], columns["id_rows"])
    by_id.insert(hashes, rows)
    events = np.fromiter(map(item_hash, ids), np.uint64, len(ids))
    HashIndex(columns["event_hashes"], columns["event_rows"]).insert(events, rows)
    entered = by_id.find(hashes)
    alike = [columns["alike_rows"], rows[entered != rows], entered[entered != rows]]
    columns["alike_rows"] = np.unique(np.concatenate(alike))
    columns["id_ends"] = np.concatenate([columns["id_ends"], packed.ends + len(columns["ids"])])
    columns["ids"] = np.concatenate([columns["ids"], packed.packed])
