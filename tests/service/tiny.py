"""A tiny release, written with the contract's own pack functions, and what its model gives for its items."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis

from models.contract.artifact import ItemSnapshot, ModelName, ReleaseManifest
from models.contract.bulk import ItemDecoder
from models.contract.items import item_statistics
from models.contract.keys import Keys
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.schema import FeatureSchema
from models.contract.snapshot import change, filled_columns, write_columns
from models.split_model import SplitModel, parts_folder
from tests.contract.item_record import ItemRecord
from tests.parts import write_parts
from tests.service.tiny_model import (
    FACTS_SPACE,
    FINGERPRINTS,
    ITEM_SPACE,
    ITEM_WEIGHTS,
    SCHEMA,
    USER_SPACE,
    USER_WEIGHTS,
    artifact_manifest,
    bare_manifest,
    model_bytes,
)


@dataclass(frozen=True)
class TinyItem:
    """An item; ``rating`` is its mean over 10 interactions. None means no knowledge in the space in question: of
    ``vector`` in "liber", of ``facts`` in "facts"."""

    id: str
    genres: tuple[str, ...] = ("drama",)
    rating: float = 3.0
    vector: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
    facts: tuple[float, float] | None = (0.0, 0.0)
    knowledge_expires_at: int = 2**40

    def numeric(self) -> tuple[float, ...]:
        liked = 10 * (self.rating > SCHEMA.liked_above)
        return tuple(item_statistics(SCHEMA, 10, 10 * self.rating, liked).tolist())


ITEMS = (
    TinyItem("a", rating=1.0),
    TinyItem("b", rating=2.0),
    TinyItem("c", rating=3.0),
    TinyItem("d", rating=4.0, genres=("comedy", "horror")),
    TinyItem("e", rating=5.0),
)


@dataclass
class Publisher:
    """Writes tiny releases as an offline job would: model, records, directory, manifest last, then the pointer."""

    redis: redis.Redis
    keys: Keys
    artifacts: Path

    def publish(
        self,
        release: str = "r1",
        *,
        items: Sequence[TinyItem] = ITEMS,
        content: bytes | None = None,
        switch: bool = True,
        split: bool = True,
        schema: FeatureSchema = SCHEMA,
        **changes: object,
    ) -> ReleaseManifest:
        """``split`` False publishes the model alone, as one that cannot be cut."""
        content = model_bytes() if content is None else content
        self.artifacts.mkdir(parents=True, exist_ok=True)
        artifact = self.artifacts / f"{release}.onnx"
        artifact.write_bytes(content)
        for index, item in enumerate(items, start=1):
            self.item(item, release, index, schema)
        blocks = [items[:3], items[3:]]
        for block, part in enumerate(blocks):
            self.redis.set(self.keys.item_directory(release, block), json.dumps([item.id for item in part]))
        fields: dict[str, object] = {
            "id": release,
            "created_at": 1_700_000_000,
            "artifact": artifact.name,
            "artifact_sha256": hashlib.sha256(content).hexdigest(),
            "model": ModelName(name="tiny", version="1"),
            "schema_fingerprint": schema.fingerprint,
            "spaces": {
                key: space for key, space in FINGERPRINTS.items() if key in {spec.key for spec in schema.knowledge}
            },
            "items": len(items),
            "directory_blocks": len(blocks),
            "parts": write_parts(content, parts_folder(artifact)) if split else {},
        }
        split_model = SplitModel.open(parts_folder(artifact), 1) if fields["parts"] else None
        fields |= {"snapshot": self._snapshot(release, [item.id for item in items], schema, split_model)} | changes
        manifest = ReleaseManifest.model_validate(fields)
        self.redis.set(self.keys.release_manifest(release), manifest.model_dump_json())
        if switch:
            self.redis.set(self.keys.live, release)
        return manifest

    def _snapshot(
        self, release: str, ids: list[str], schema: FeatureSchema, split_model: SplitModel | None
    ) -> ItemSnapshot:
        mark = self.change(release)
        decoder = ItemDecoder(artifact_manifest() if schema.knowledge else bare_manifest())
        blobs: list[Any] = [self.redis.mget(keys) for keys in decoder.keys(self.keys, release, ids)]
        columns, count = filled_columns(decoder, ids, [decoder.decode(ids, blobs)])
        if split_model is not None:
            columns = split_model.completed(columns, count)
        return ItemSnapshot(changes=mark, items=count, columns=write_columns(self.artifacts, columns))

    def change(self, of: str, *ids: str) -> str:
        """Append an entry to the stream of changes; its id."""
        entry: Any = self.redis.xadd(self.keys.changes, change(of, ids))
        return str(entry.decode())

    def revise(self, release: str, *items: TinyItem) -> str:
        """Write records of items in place, as a publication does; the new revision."""
        self.change(release, *(item.id for item in items))
        for index, item in enumerate(items, start=1):
            self.item(item, release, index)
        revision = self.change(release)
        self.redis.set(self.keys.release_revision(release), revision)
        return revision

    def item(self, item: TinyItem, release: str, index: int = 1, schema: FeatureSchema = SCHEMA) -> None:
        record = ItemRecord(
            owner=item.id,
            schema=schema.fingerprint,
            index=index,
            categorical=tuple(SCHEMA.encode_item_fields({"genre": list(item.genres)})),
            numeric=item.numeric(),
            written_at=0,
        )
        self.redis.set(self.keys.item_features(item.id, release), record.pack())
        for space, vector in ((ITEM_SPACE, item.vector), (FACTS_SPACE, item.facts)):
            if vector is not None:
                known = knowledge(item.id, space, [vector], item.knowledge_expires_at)
                self.redis.set(self.keys.item_knowledge(item.id, space.fingerprint), known)

    def user_knowledge(
        self, user_id: str, rows: Sequence[Sequence[float]], expires_at: int = 2**40, space: Space = USER_SPACE
    ) -> None:
        blob = knowledge(user_id, space, rows, expires_at)
        self.redis.set(self.keys.user_knowledge(user_id, space.fingerprint), blob)


def knowledge(owner: str, space: Space, rows: Sequence[Sequence[float]], expires_at: int = 2**40) -> bytes:
    vectors = np.asarray(rows, np.float32)
    return KnowledgeRecord(owner, space.fingerprint, vectors, int(time.time()), expires_at).pack()


def score_of(
    item: TinyItem,
    history: Sequence[float] = (),
    partitions: float = 0.0,
    portrait: Sequence[float] = (0.0, 0.0),
    knowledge: bool = True,
) -> float:
    """The tiny model's score of a known item; ``partitions`` is the sum of the user's vectors in "liber"."""
    centered = [(value - SCHEMA.value_center) / SCHEMA.value_scale for value in history[-SCHEMA.history_length :]]
    fields = SCHEMA.encode_item_fields({"genre": list(item.genres)})
    logit = sum(item.numeric()) + 0.1 * sum(fields) + 0.1 * sum(centered)
    if knowledge:
        vectors = (*(item.vector or (0.0, 0.0, 0.0)), *(item.facts or (0.0, 0.0)))
        logit += 0.1 * partitions + float(np.dot(vectors, ITEM_WEIGHTS) + np.dot(portrait, USER_WEIGHTS))
    return float(1.0 / (1.0 + np.exp(-logit)))
