"""Many packed records at once, in arrays, and the rows of an item table that they give.

A catalogue of a million items has some four million records; one by one, reading them takes most of a minute. Here
only records that are right are read: knowledge is checked as ``KnowledgeRecord.unpack`` checks it, and items alike.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import cast

import numpy as np
import numpy.typing as npt

from models.contract import items, knowledge
from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.artifact import ArtifactManifest
from models.contract.items import Columns, blank_columns
from models.contract.keys import Keys, of_each
from models.contract.schema import FeatureSchema

CRC = 4
SEALED = 0x2144DF1C
"""Bytes of a check sum, and the crc32 of whatever ends with its own crc32 in little-endian order."""

KNOWLEDGE_HEAD = np.dtype(
    [("magic", "S2"), ("version", "u1"), ("dtype", "u1"), ("rows", "<u2"), ("dim", "<u2"), ("codes", "u1"),
     ("reserved", "u1"), ("owner", "<u2"), ("scale", "<f4"), ("written_at", "<i8"), ("expires_at", "<i8"),
     ("space", "<u8")]
)  # fmt: skip
ITEM_HEAD = np.dtype(
    [("magic", "S2"), ("version", "u1"), ("reserved", "u1"), ("index", "<u4"), ("written_at", "<i8"), ("schema", "<u8")]
)
"""Beginnings of the records as their modules lay them out; a fingerprint of eight bytes is one number here."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class KnowledgeRows:
    """Records of one row. ``at`` int64 [k] are their positions among those asked for; vectors float32 [k, dim];
    expires_at int64 [k]."""

    at: IntArray
    vectors: FloatArray
    expires_at: IntArray


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Records of items. ``at`` int64 [k] are their positions among those asked for; index int64 [k], categorical int64
    [k, S], numeric float32 [k, N]."""

    at: IntArray
    index: IntArray
    categorical: IntArray
    numeric: FloatArray


def knowledge_rows(blobs: Sequence[bytes | None], owners: Sequence[str], space: str, dim: int) -> KnowledgeRows:
    """Of the records that are whole, of their owner and of ``space``, and hold one row of ``dim`` numbers."""
    parts = [(np.zeros(0, np.int64), np.zeros((0, dim), np.float32), np.zeros(0, np.int64))]
    for at, matrix, whose in _alike(blobs, owners, KNOWLEDGE_HEAD.itemsize + CRC):
        head = np.ascontiguousarray(matrix[:, : KNOWLEDGE_HEAD.itemsize]).view(KNOWLEDGE_HEAD)[:, 0]
        for code, codes in product(knowledge.DTYPES, np.unique(head["codes"]).tolist()):
            dtype = knowledge.DTYPES[code]
            owner = matrix.shape[1] - KNOWLEDGE_HEAD.itemsize - CRC - 2 * codes - dim * dtype.itemsize
            right = (head["magic"] == knowledge.MAGIC) & (head["version"] == knowledge.VERSION)
            right &= (head["dtype"] == code) & (head["rows"] == 1) & (head["dim"] == dim)
            right &= (head["codes"] == codes) & (head["owner"] == owner) & (head["space"] == number(space))
            if owner < 0 or not right.any():
                continue
            right &= _is_of(matrix, KNOWLEDGE_HEAD.itemsize, owner, whose)
            values_at = KNOWLEDGE_HEAD.itemsize + owner + 2 * codes
            values = np.ascontiguousarray(matrix[right, values_at:-CRC]).view(dtype)
            vectors = values.astype(np.float32)
            if code == 1:
                vectors *= head["scale"][right, None]
            parts.append((at[right], vectors, head["expires_at"][right]))
    return KnowledgeRows(*map(np.concatenate, zip(*parts, strict=True)))


def item_rows(blobs: Sequence[bytes | None], owners: Sequence[str], schema: FeatureSchema) -> ItemRows:
    """Of the records that are whole, of their owner and of ``schema``."""
    slots, numbers = schema.item_slots, schema.item_numbers
    nothing = np.zeros(0, np.int64)
    parts = [(nothing, nothing, np.zeros((0, slots), np.int64), np.zeros((0, numbers), np.float32))]
    numeric_at = ITEM_HEAD.itemsize + 4 * slots
    owner_at = numeric_at + 4 * numbers
    for at, matrix, whose in _alike(blobs, owners, owner_at + CRC):
        head = np.ascontiguousarray(matrix[:, : ITEM_HEAD.itemsize]).view(ITEM_HEAD)[:, 0]
        right = (head["magic"] == items.MAGIC) & (head["version"] == items.VERSION)
        right &= head["schema"] == number(schema.fingerprint)
        right &= _is_of(matrix, owner_at, matrix.shape[1] - owner_at - CRC, whose)
        categorical = np.ascontiguousarray(matrix[right, ITEM_HEAD.itemsize : numeric_at]).view("<i4")
        numeric = np.ascontiguousarray(matrix[right, numeric_at:owner_at]).view("<f4")
        index = head["index"][right].astype(np.int64)
        parts.append((at[right], index, categorical.astype(np.int64), numeric.astype(np.float32)))
    return ItemRows(*map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True)
class DecodedItems:
    """Rows [k] of an item table's columns, without the unknown item, and which of the items have a valid feature
    record: bool [k]."""

    ids: Sequence[str]
    columns: Columns
    featured: BoolArray

    @property
    def valid(self) -> BoolArray:
        """bool [k]: which items have any valid record."""
        return np.asarray(self.featured | self.columns["expires_at"].any(axis=1))


class ItemDecoder:
    """Packed records of items as rows of an item table, checked against what a model can take, so that no stored item
    can make scoring fail. Records that are refused are counted, by kind; an item keeps what is valid of it.

    spaces  the item spaces in the order of the table's expiries, which is the schema's
    """

    def __init__(self, artifact: ArtifactManifest) -> None:
        self.schema = artifact.feature_schema
        self.spaces = [
            next(space for space in artifact.spaces if space.key == spec.key) for spec in self.schema.item_knowledge
        ]
        self.refused = {"item_features": 0, "item_knowledge": 0}
        self._rows = artifact.item_rows
        self._limits = np.asarray(
            [spec.cardinality for spec in self.schema.item_fields for _ in range(spec.slots)], np.int64
        )

    def keys(self, keys: Keys, release: str, ids: Sequence[str]) -> list[list[str]]:
        """Keys of the records of items: of their features, then of their knowledge space by space."""
        return [
            of_each(partial(keys.item_features, release=release), ids),
            *(of_each(partial(keys.item_knowledge, space=space.fingerprint), ids) for space in self.spaces),
        ]

    def decode(self, ids: Sequence[str], blobs: Sequence[Sequence[bytes | None]]) -> DecodedItems:
        """The rows of items, from what their ``keys`` hold."""
        blank = blank_columns(self.schema, len(ids))
        decoded = DecodedItems(ids, {name: column[1:] for name, column in blank.items()}, np.zeros(len(ids), np.bool_))
        if ids:
            self._features(decoded, blobs[0])
            for place, knowledge_blobs in enumerate(blobs[1:]):
                self._knowledge(decoded, place, knowledge_blobs)
        return decoded

    def _features(self, decoded: DecodedItems, blobs: Sequence[bytes | None]) -> None:
        read = item_rows(blobs, decoded.ids, self.schema)
        usable = (read.index < self._rows) & np.isfinite(read.numeric).all(axis=1)
        usable &= ((read.categorical >= 0) & (read.categorical < self._limits)).all(axis=1)
        at = read.at[usable]
        for name in ("index", "categorical", "numeric"):
            decoded.columns[name][at] = getattr(read, name)[usable]
        decoded.featured[at] = True
        self.refused["item_features"] += sum(blob is not None for blob in blobs) - len(at)

    def _knowledge(self, decoded: DecodedItems, place: int, blobs: Sequence[bytes | None]) -> None:
        space = self.spaces[place]
        read = knowledge_rows(blobs, decoded.ids, space.fingerprint, space.dim)
        usable = np.isfinite(read.vectors).all(axis=1)
        at = read.at[usable]
        decoded.columns["vectors"][at, self.schema.item_columns[space.name]] = read.vectors[usable]
        decoded.columns["expires_at"][at, place] = read.expires_at[usable]
        self.refused["item_knowledge"] += sum(blob is not None for blob in blobs) - len(at)


def _alike(
    blobs: Sequence[bytes | None], owners: Sequence[str], least: int
) -> Iterator[tuple[IntArray, Bytes, Sequence[str]]]:
    """Undamaged records of one length after the other: positions [k], bytes [k, length] and their owners."""
    if None not in blobs:
        whole = cast("Sequence[bytes]", blobs)
        lengths = {*map(len, whole)}
        if len(lengths) == 1 and min(lengths) >= least and {*map(zlib.crc32, whole)} == {SEALED}:
            # What almost every chunk is.
            matrix = np.frombuffer(b"".join(whole), np.uint8).reshape(len(whole), -1)
            yield np.arange(len(whole)), matrix, owners
            return
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position, blob in enumerate(blobs):
        if blob is not None and len(blob) >= least and zlib.crc32(blob) == SEALED:
            groups[len(blob)].append(position)
    for length, at in groups.items():
        matrix = np.frombuffer(b"".join([blobs[position] or b"" for position in at]), np.uint8).reshape(len(at), length)
        yield np.asarray(at, np.int64), matrix, [owners[position] for position in at]


def number(fingerprint: str) -> np.uint64:
    """A fingerprint as it lies in a record, read as a number."""
    return np.uint64(int.from_bytes(bytes.fromhex(fingerprint), "little"))


def _is_of(matrix: Bytes, at: int, length: int, owners: Sequence[str]) -> BoolArray:
    """Whether ``length`` bytes from ``at`` on are the names of the owners."""
    text = "".join(owners)
    names = owners if text.isascii() else [owner.encode() for owner in owners]
    # A longer name is cut and would match by its beginning; its length tells.
    same: BoolArray = np.fromiter(map(len, names), np.int64, len(names)) == length
    expected = text.encode()
    if not same.all():
        expected = b"".join(
            [owner.encode() if right else bytes(length) for owner, right in zip(owners, same, strict=True)]
        )
    same &= (matrix[:, at : at + length] == np.frombuffer(expected, np.uint8).reshape(len(names), length)).all(axis=1)
    return same
