"""Reads the catalogue of a release from Redis and joins it into the columns of the item table.

Knows the item directory and the packed records of an item: its features, and its knowledge in each space. Records
are decoded in a thread, chunk by chunk, so that a large catalogue does not hold up the requests that are being served
meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import compress

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray, IntArray
from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.bulk import item_rows, knowledge_rows
from models.contract.items import Columns, ItemRecord, blank_columns, lookup_columns
from models.contract.keys import Keys, of_each
from models.contract.knowledge import KnowledgeRecord, RecordError, Space
from service.arrays import NewArrays
from service.background import aside
from service.features.redis import Command, RedisLink, replies_to
from service.ranking.deadline import Deadline
from service.telemetry import Telemetry

CHUNK = 2000
CHUNK_SECONDS = 10.0
"""Items per read, and how long one read may take before the load is given up and tried again."""

REFUSED_KINDS = ("item_features", "item_knowledge")
"""As refused records are counted."""


async def read_items(
    link: RedisLink,
    keys: Keys,
    manifest: ReleaseManifest,
    artifact: ArtifactManifest,
    telemetry: Telemetry,
    new: NewArrays,
) -> None:
    """Make the columns of a release's item table. ArtifactError if its directory is not whole, or if no item has a
    valid record; RedisUnavailable if Redis is.

    A refused record is counted and left out; its item stays with what is valid of it, and is left out only if
    nothing is.
    """
    ids = await _directory(link, keys, manifest)
    decode = _Decoder(artifact, ids, blank_columns(artifact.feature_schema, len(ids), new.allocate))
    read = partial(_records, link, keys, manifest, decode.spaces)
    ahead = await read(ids[:CHUNK])
    for start in range(0, len(ids), CHUNK):
        features, *knowledge = ahead
        decoding = aside(decode.chunk, start, features, knowledge)
        # Redis reads the next chunk while this one is decoded.
        _, ahead = await asyncio.gather(decoding, read(ids[start + CHUNK : start + 2 * CHUNK]))
    for kind, count in zip(REFUSED_KINDS, (decode.refused_features, decode.refused_knowledge), strict=True):
        telemetry.refused_records.labels(kind).inc(count)
    if not decode.valid.any():
        raise ArtifactError(f"release {manifest.id}: no item has a valid record")
    await aside(_finish, decode, new)


async def _records(
    link: RedisLink, keys: Keys, manifest: ReleaseManifest, spaces: Sequence[Space], ids: Sequence[str]
) -> list[list[bytes | None]]:
    """Packed records of items: of their features, and of their knowledge space by space. Nothing of no items."""
    if not ids:
        return []
    commands: list[Command] = [
        ("MGET", *of_each(partial(keys.item_features, release=manifest.id), ids)),
        *(("MGET", *of_each(partial(keys.item_knowledge, space=space.fingerprint), ids)) for space in spaces),
    ]
    return await replies_to(link, commands, Deadline(CHUNK_SECONDS))


def _finish(decode: _Decoder, new: NewArrays) -> None:
    """Close the gaps that items without a valid record have left, and make what finds the others."""
    ids: Sequence[str] = decode.ids
    if not decode.valid.all():
        ids = list(compress(ids, decode.valid.tolist()))
        for name, column in decode.columns.items():
            column[1 : len(ids) + 1] = column[1:][decode.valid]
            new.cut(name, len(ids) + 1)
    lookup_columns(ids, new.allocate)


async def _directory(link: RedisLink, keys: Keys, manifest: ReleaseManifest) -> list[str]:
    """Item ids of a release, each once."""
    commands: list[Command] = [
        ("GET", keys.item_directory(manifest.id, block)) for block in range(manifest.directory_blocks)
    ]
    replies = await link.round_trip(commands, Deadline(CHUNK_SECONDS)) if commands else []
    ids: dict[str, None] = {}
    for block, reply in enumerate(replies):
        try:
            listed = json.loads(reply)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"release {manifest.id}: item directory block {block} is missing or damaged") from error
        if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
            raise ArtifactError(f"release {manifest.id}: item directory block {block} is not a list of ids")
        ids.update(dict.fromkeys(listed))
    return list(ids)


class _Decoder:
    """Fills columns with what packed records say, checked against what the model can take, so that no stored item can
    make scoring fail.

    spaces  the item spaces in the order of the table's expiries, which is the schema's
    valid   bool [n], which items have at least one valid record
    """

    def __init__(self, artifact: ArtifactManifest, ids: Sequence[str], columns: Columns) -> None:
        self._schema = artifact.feature_schema
        self._rows = artifact.item_rows
        self._limits = np.asarray(
            [spec.cardinality for spec in self._schema.item_fields for _ in range(spec.slots)], np.int64
        )
        by_key = {space.key: space for space in artifact.spaces}
        self.spaces = [by_key[spec.key] for spec in self._schema.item_knowledge]
        self.ids = ids
        self.columns = columns
        self.valid = np.zeros(len(ids), np.bool_)
        self.refused_features = 0
        self.refused_knowledge = 0

    def chunk(self, start: int, features: Sequence[bytes | None], knowledge: Sequence[Sequence[bytes | None]]) -> None:
        """Fill the columns from the item ``start`` on with feature records, and with those of knowledge space by
        space."""
        self._fill_all_features(start, features)
        for place, blobs in enumerate(knowledge):
            self._fill_all_knowledge(start, place, blobs)

    def _fill_all_features(self, start: int, blobs: Sequence[bytes | None]) -> None:
        read = item_rows(blobs, self.ids[start : start + len(blobs)], self._schema)
        usable = (read.index < self._rows) & np.isfinite(read.numeric).all(axis=1)
        usable &= ((read.categorical >= 0) & (read.categorical < self._limits)).all(axis=1)
        self._set_features(start + read.at[usable], read.index[usable], read.categorical[usable], read.numeric[usable])
        for item, blob in _others(start, blobs, read.at[usable]):
            self._fill_features(item, blob)

    def _fill_all_knowledge(self, start: int, place: int, blobs: Sequence[bytes | None]) -> None:
        space = self.spaces[place]
        read = knowledge_rows(blobs, self.ids[start : start + len(blobs)], space.fingerprint, space.dim)
        usable = np.isfinite(read.vectors).all(axis=1)
        self._set_knowledge(start + read.at[usable], place, read.vectors[usable], read.expires_at[usable])
        for item, blob in _others(start, blobs, read.at[usable]):
            self._fill_knowledge(item, place, blob)

    def _fill_features(self, item: int, blob: bytes) -> None:
        try:
            record = ItemRecord.unpack(blob, self.ids[item], self._schema)
        except RecordError:
            self.refused_features += 1
            return
        fields = np.asarray(record.categorical, np.int64)
        if (
            record.index >= self._rows
            or ((fields < 0) | (fields >= self._limits)).any()
            or not np.isfinite(record.numeric).all()
        ):
            self.refused_features += 1
            return
        self._set_features(item, record.index, fields, record.numeric)

    def _fill_knowledge(self, item: int, place: int, blob: bytes) -> None:
        space = self.spaces[place]
        try:
            record = KnowledgeRecord.unpack(blob, self.ids[item], space.fingerprint)
        except RecordError:
            self.refused_knowledge += 1
            return
        if record.vectors.shape != (1, space.dim) or not np.isfinite(record.vectors).all():
            self.refused_knowledge += 1
            return
        self._set_knowledge(item, place, record.vectors[0], record.expires_at)

    def _set_features(
        self, items: IntArray | int, index: npt.ArrayLike, categorical: IntArray, numeric: npt.ArrayLike
    ) -> None:
        rows = items + 1
        self.columns["index"][rows] = index
        self.columns["categorical"][rows] = categorical
        self.columns["numeric"][rows] = numeric
        self.valid[items] = True

    def _set_knowledge(self, items: IntArray | int, place: int, vectors: FloatArray, expires_at: npt.ArrayLike) -> None:
        rows = items + 1
        self.columns["vectors"][rows, self._schema.item_columns[self.spaces[place].name]] = vectors
        self.columns["expires_at"][rows, place] = expires_at
        self.valid[items] = True


def _others(start: int, blobs: Sequence[bytes | None], done: IntArray) -> Iterator[tuple[int, bytes]]:
    """Items and records that are not ``done``."""
    left = np.ones(len(blobs), np.bool_)
    left[done] = False
    for at in np.flatnonzero(left).tolist():
        blob = blobs[at]
        if blob is not None:
            yield start + at, blob
