"""Reads the catalogue of a release from Redis and joins it into the in-process item table.

Knows the item directory and the packed records of an item: its features, and its knowledge in each space. Records
are decoded in a thread, chunk by chunk, so that a large catalogue does not hold up the requests that are being served
meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.bulk import item_rows, knowledge_rows
from models.contract.items import IntArray, ItemRecord, ItemTable, item_statistics
from models.contract.keys import Keys
from models.contract.knowledge import FloatArray, KnowledgeRecord, RecordError
from models.contract.schema import FeatureSchema
from service.features.connection import Command, RedisLink, replies_to
from service.ranking.deadline import Deadline
from service.telemetry import Telemetry

CHUNK = 1000
CHUNK_SECONDS = 10.0
"""Items per read, and how long one read may take before the load is given up and tried again."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """The table under construction, one row per item of the directory: an unknown item until a record says more.

    ``valid`` bool [n] tells which items have at least one valid record. The other columns are those of ``ItemTable``,
    made once for the whole catalogue and filled in place.
    """

    ids: Sequence[str]
    index: IntArray
    categorical: IntArray
    numeric: FloatArray
    vectors: FloatArray
    expires_at: IntArray
    valid: npt.NDArray[np.bool_]

    @classmethod
    def blank(cls, schema: FeatureSchema, ids: Sequence[str]) -> _Columns:
        n = len(ids)
        return cls(
            ids=ids,
            index=np.zeros(n, np.int64),
            categorical=np.zeros((n, schema.item_slots), np.int64),
            numeric=np.tile(item_statistics(schema, 0, 0, 0), (n, 1)),
            vectors=np.zeros((n, schema.item_width), np.float32),
            expires_at=np.zeros((n, len(schema.item_knowledge)), np.int64),
            valid=np.zeros(n, np.bool_),
        )

    def table(self, schema: FeatureSchema) -> ItemTable:
        """The table of the valid items."""
        # Selecting by a slice copies nothing, and in most catalogues every item is valid.
        rows: slice | npt.NDArray[np.bool_] = slice(None) if self.valid.all() else self.valid
        return ItemTable.build(
            schema,
            ids=list(compress(self.ids, self.valid.tolist())),
            index=self.index[rows],
            categorical=self.categorical[rows],
            numeric=self.numeric[rows],
            vectors=self.vectors[rows],
            expires_at=self.expires_at[rows],
        )


async def load_items(
    link: RedisLink, keys: Keys, manifest: ReleaseManifest, artifact: ArtifactManifest, telemetry: Telemetry
) -> ItemTable:
    """The item table of a release. ArtifactError if its directory is not whole; RedisUnavailable if Redis is.

    A refused record is counted and left out; its item stays with what is valid of it, and is left out only if
    nothing is.
    """
    ids = await _directory(link, keys, manifest)
    decode = _Decoder(artifact, ids)
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        commands: list[Command] = [
            ("MGET", *(keys.item_features(one, manifest.id) for one in chunk)),
            *(("MGET", *(keys.item_knowledge(one, space.fingerprint) for one in chunk)) for space in decode.spaces),
        ]
        features, *knowledge = await replies_to(link, commands, Deadline(CHUNK_SECONDS))
        await asyncio.to_thread(decode.chunk, start, features, knowledge)
    telemetry.refused_records.labels("item_features").inc(decode.refused_features)
    telemetry.refused_records.labels("item_knowledge").inc(decode.refused_knowledge)
    return await asyncio.to_thread(decode.columns.table, artifact.feature_schema)


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
    """Checks packed records against what the model can take, so that no stored item can make scoring fail.

    ``spaces`` are the item spaces in the order of the table's expiries, which is the schema's.
    """

    def __init__(self, artifact: ArtifactManifest, ids: Sequence[str]) -> None:
        self._schema = artifact.feature_schema
        self._rows = artifact.item_rows
        self._limits = np.asarray(
            [spec.cardinality for spec in self._schema.item_fields for _ in range(spec.slots)], np.int64
        )
        by_key = {space.key: space for space in artifact.spaces}
        self.spaces = [by_key[spec.key] for spec in self._schema.item_knowledge]
        self.columns = _Columns.blank(self._schema, ids)
        self.refused_features = 0
        self.refused_knowledge = 0

    def chunk(self, start: int, features: Sequence[bytes | None], knowledge: Sequence[Sequence[bytes | None]]) -> None:
        """Fill the columns from row ``start`` on with feature records, and with those of knowledge space by space."""
        self._fill_all_features(start, features)
        for place, blobs in enumerate(knowledge):
            self._fill_all_knowledge(start, place, blobs)

    def _fill_all_features(self, start: int, blobs: Sequence[bytes | None]) -> None:
        columns = self.columns
        read = item_rows(blobs, columns.ids[start : start + len(blobs)], self._schema)
        usable = (read.index < self._rows) & np.isfinite(read.numeric).all(axis=1)
        usable &= ((read.categorical >= 0) & (read.categorical < self._limits)).all(axis=1)
        rows = start + read.at[usable]
        columns.index[rows] = read.index[usable]
        columns.categorical[rows] = read.categorical[usable]
        columns.numeric[rows] = read.numeric[usable]
        columns.valid[rows] = True
        for row, blob in _others(start, blobs, read.at[usable]):
            self._fill_features(row, blob)

    def _fill_all_knowledge(self, start: int, place: int, blobs: Sequence[bytes | None]) -> None:
        columns, space = self.columns, self.spaces[place]
        read = knowledge_rows(blobs, columns.ids[start : start + len(blobs)], space.fingerprint, space.dim)
        usable = np.isfinite(read.vectors).all(axis=1)
        rows = start + read.at[usable]
        columns.vectors[rows, self._schema.item_columns[space.name]] = read.vectors[usable]
        columns.expires_at[rows, place] = read.expires_at[usable]
        columns.valid[rows] = True
        for row, blob in _others(start, blobs, read.at[usable]):
            self._fill_knowledge(row, place, blob)

    def _fill_features(self, row: int, blob: bytes) -> None:
        columns = self.columns
        try:
            record = ItemRecord.unpack(blob, columns.ids[row], self._schema)
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
        columns.index[row] = record.index
        columns.categorical[row] = fields
        columns.numeric[row] = record.numeric
        columns.valid[row] = True

    def _fill_knowledge(self, row: int, place: int, blob: bytes) -> None:
        columns, space = self.columns, self.spaces[place]
        try:
            record = KnowledgeRecord.unpack(blob, columns.ids[row], space.fingerprint)
        except RecordError:
            self.refused_knowledge += 1
            return
        if record.vectors.shape != (1, space.dim) or not np.isfinite(record.vectors).all():
            self.refused_knowledge += 1
            return
        columns.vectors[row, self._schema.item_columns[space.name]] = record.vectors[0]
        columns.expires_at[row, place] = record.expires_at
        columns.valid[row] = True


def _others(start: int, blobs: Sequence[bytes | None], done: IntArray) -> Iterator[tuple[int, bytes]]:
    """Rows and records that are not ``done``."""
    left = np.ones(len(blobs), np.bool_)
    left[done] = False
    for at in np.flatnonzero(left).tolist():
        blob = blobs[at]
        if blob is not None:
            yield start + at, blob
