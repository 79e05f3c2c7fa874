"""Reads the catalogue of a release from Redis and joins it into the in-process item table.

Knows the item directory and the two kinds of packed item records. Records are decoded in a thread, chunk by
chunk, so that a large catalogue does not hold up the requests that are being served meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.items import ITEM_NUMERIC, ItemRecord, ItemTable, item_statistics
from models.contract.keys import Keys
from models.contract.knowledge import FloatArray, KnowledgeRecord, RecordError, Space
from models.contract.schema import FeatureSchema
from service.features.connection import Command, RedisLink, replies_to
from service.ranking.deadline import Deadline
from service.telemetry import Telemetry

CHUNK = 1000
CHUNK_SECONDS = 10.0
"""Items per read, and how long one read may take before the load is given up and tried again."""


@dataclass(slots=True)
class _Columns:
    """The table under construction: one entry per item that has at least one valid record."""

    ids: list[str] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    categorical: list[tuple[int, ...]] = field(default_factory=list)
    numeric: list[tuple[float, ...]] = field(default_factory=list)
    vectors: list[FloatArray] = field(default_factory=list)
    expires_at: list[int] = field(default_factory=list)
    refused_features: int = 0
    refused_knowledge: int = 0


async def load_items(
    link: RedisLink, keys: Keys, manifest: ReleaseManifest, artifact: ArtifactManifest, telemetry: Telemetry
) -> ItemTable:
    """The item table of a release. ArtifactError if its directory is not whole; RedisUnavailable if Redis is.

    A refused record is counted and left out; its item stays with what is valid of it, and is left out only if
    nothing is.
    """
    ids = await _directory(link, keys, manifest)
    space = artifact.spaces.get("item")
    decode = _Decoder(artifact, space)
    columns = _Columns()
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        features = [keys.item_features(one, manifest.id) for one in chunk]
        commands: list[Command] = [("MGET", *features)]
        if space is not None:
            commands.append(("MGET", *(keys.item_knowledge(one, space.fingerprint) for one in chunk)))
        replies = await replies_to(link, commands, Deadline(CHUNK_SECONDS))
        knowledge = replies[1] if space is not None else [None] * len(chunk)
        await asyncio.to_thread(decode.chunk, columns, chunk, replies[0], knowledge)
    telemetry.refused_records.labels("item_features").inc(columns.refused_features)
    telemetry.refused_records.labels("item_knowledge").inc(columns.refused_knowledge)
    return await asyncio.to_thread(_build, artifact.feature_schema, columns)


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
    """Checks packed records against what the model can take, so that no stored item can make scoring fail."""

    def __init__(self, artifact: ArtifactManifest, space: Space | None) -> None:
        self._schema = artifact.feature_schema
        self._rows = artifact.item_rows
        self._space = space
        self._limits = np.asarray(
            [spec.cardinality for spec in self._schema.item_fields for _ in range(spec.slots)], np.int64
        )
        self._nothing = np.zeros(self._schema.knowledge_dim, np.float32)
        self._unknown = (0,) * self._schema.item_slots
        self._prior = tuple(item_statistics(self._schema, 0, 0, 0).tolist())

    def chunk(
        self, columns: _Columns, ids: Iterable[str], features: Iterable[bytes | None], knowledge: Iterable[bytes | None]
    ) -> None:
        """Append the items of one chunk to ``columns``."""
        for item_id, feature_blob, knowledge_blob in zip(ids, features, knowledge, strict=True):
            record = self._features(item_id, feature_blob, columns)
            known = self._knowledge(item_id, knowledge_blob, columns)
            if record is None and known is None:
                continue
            columns.ids.append(item_id)
            columns.index.append(0 if record is None else record.index)
            columns.categorical.append(self._unknown if record is None else record.categorical)
            columns.numeric.append(self._prior if record is None else record.numeric)
            columns.vectors.append(self._nothing if known is None else known.vectors[0])
            columns.expires_at.append(0 if known is None else known.expires_at)

    def _features(self, item_id: str, blob: bytes | None, columns: _Columns) -> ItemRecord | None:
        if blob is None:
            return None
        try:
            record = ItemRecord.unpack(blob, item_id, self._schema)
        except RecordError:
            columns.refused_features += 1
            return None
        fields = np.asarray(record.categorical, np.int64)
        if (
            record.index >= self._rows
            or ((fields < 0) | (fields >= self._limits)).any()
            or not np.isfinite(record.numeric).all()
        ):
            columns.refused_features += 1
            return None
        return record

    def _knowledge(self, item_id: str, blob: bytes | None, columns: _Columns) -> KnowledgeRecord | None:
        if blob is None or self._space is None:
            return None
        try:
            record = KnowledgeRecord.unpack(blob, item_id, self._space.fingerprint)
        except RecordError:
            columns.refused_knowledge += 1
            return None
        if record.vectors.shape != (1, self._schema.knowledge_dim) or not np.isfinite(record.vectors).all():
            columns.refused_knowledge += 1
            return None
        return record


def _build(schema: FeatureSchema, columns: _Columns) -> ItemTable:
    count = len(columns.ids)
    vectors = np.asarray(columns.vectors, np.float32).reshape(count, schema.knowledge_dim)
    numeric = np.asarray(columns.numeric, np.float32).reshape(count, len(ITEM_NUMERIC))
    categorical = np.asarray(columns.categorical, np.int64).reshape(count, schema.item_slots)
    return ItemTable.build(schema, columns.ids, columns.index, categorical, numeric, vectors, columns.expires_at)
