"""A tiny release, written with the contract's own pack functions; its model's score can be computed by hand.

score = sigmoid(sum(item_numeric) + sum(item_vectors) + 0.1 * sum(item_categorical)
                + 0.1 * sum(history_value) + 0.1 * sum(partition_vectors))
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import redis
from onnx import TensorProto, helper, numpy_helper

from models.contract.artifact import METADATA_KEY, ArtifactManifest, ModelName, ReleaseManifest
from models.contract.items import ItemRecord, item_statistics
from models.contract.keys import Keys
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.schema import FeatureSchema, FieldSpec

SCHEMA = FeatureSchema(
    name="tiny",
    user_fields=(FieldSpec(name="gender", vocab=("M", "F")), FieldSpec(name="age", edges=(18.0, 40.0))),
    item_fields=(FieldSpec(name="genre", vocab=("drama", "comedy", "horror"), slots=2),),
    history_length=4,
    partitions=2,
    knowledge_dim=3,
)
USER_SPACE = Space(name="tiny-user", side="user", rows=2, dim=3, components={"llm": "none"})
ITEM_SPACE = Space(name="tiny-item", side="item", rows=1, dim=3, components={"llm": "none"})
SPACES = {"user": USER_SPACE, "item": ITEM_SPACE}

INPUTS = (
    "user_categorical", "history_value", "partition_vectors", "item_index", "item_categorical", "item_numeric",
    "item_vectors",
)  # fmt: skip
_SHAPES = {
    "user_categorical": (TensorProto.INT64, [1, SCHEMA.user_slots]),
    "history_value": (TensorProto.FLOAT, [1, SCHEMA.history_length]),
    "partition_vectors": (TensorProto.FLOAT, [1, SCHEMA.partitions, SCHEMA.knowledge_dim]),
    "item_index": (TensorProto.INT64, ["C"]),
    "item_categorical": (TensorProto.INT64, ["C", SCHEMA.item_slots]),
    "item_numeric": (TensorProto.FLOAT, ["C", 3]),
    "item_vectors": (TensorProto.FLOAT, ["C", SCHEMA.knowledge_dim]),
}

_PARTS = ("user", "history", "partition", "fields", "numeric", "vectors", "index")


def artifact_manifest(**changes: object) -> ArtifactManifest:
    fields: dict[str, object] = {
        "model": ModelName(name="tiny", version="1"),
        "architecture": "sum",
        "feature_schema": SCHEMA,
        "spaces": SPACES,
        "inputs": INPUTS,
        "item_rows": 10_000,
        "trained_until_ms": 0,
    }
    return ArtifactManifest.model_validate(fields | changes)


def model_bytes(manifest: ArtifactManifest | None = None, user_rows: int = 8, offset: float = 0.0) -> bytes:
    """The tiny model. With ``user_rows=1`` its user embedding is too short for any user with known fields: it fails."""

    def total(source: str, target: str, axes: Sequence[int]) -> list[onnx.NodeProto]:
        constants.append(numpy_helper.from_array(np.asarray(axes, np.int64), f"{target}_axes"))
        return [helper.make_node("ReduceSum", [source, f"{target}_axes"], [target], keepdims=0)]

    constants = [
        numpy_helper.from_array(np.zeros((user_rows, 1), np.float32), "user_table"),
        numpy_helper.from_array(np.asarray(0.1, np.float32), "tenth"),
        numpy_helper.from_array(np.asarray([offset], np.float32), "offset"),
        numpy_helper.from_array(np.asarray(0.0, np.float32), "zero"),
    ]
    nodes = [
        helper.make_node("Gather", ["user_table", "user_categorical"], ["user_rows"], axis=0),
        *total("user_rows", "user_sum", [1, 2]),
        *total("history_value", "history_raw", [1]),
        helper.make_node("Mul", ["history_raw", "tenth"], ["history_sum"]),
        *total("partition_vectors", "partition_raw", [1, 2]),
        helper.make_node("Mul", ["partition_raw", "tenth"], ["partition_sum"]),
        helper.make_node("Cast", ["item_categorical"], ["item_fields"], to=TensorProto.FLOAT),
        *total("item_fields", "fields_raw", [1]),
        helper.make_node("Mul", ["fields_raw", "tenth"], ["fields_sum"]),
        *total("item_numeric", "numeric_sum", [1]),
        *total("item_vectors", "vectors_sum", [1]),
        helper.make_node("Cast", ["item_index"], ["index_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["index_float", "zero"], ["index_sum"]),
        helper.make_node(
            "Sum",
            [f"{part}_sum" for part in _PARTS] + ["offset"],
            ["logit"],
        ),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *_SHAPES[name]) for name in INPUTS],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["C"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: (manifest or artifact_manifest()).model_dump_json()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class TinyItem:
    """An item; ``rating`` is its mean over 10 interactions. ``vector`` None means no knowledge."""

    id: str
    genres: tuple[str, ...] = ("drama",)
    rating: float = 3.0
    vector: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
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
    """Writes tiny releases as an offline job would: records, directory, manifest last, then the pointer."""

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
        **changes: object,
    ) -> ReleaseManifest:
        content = model_bytes() if content is None else content
        self.artifacts.mkdir(parents=True, exist_ok=True)
        (self.artifacts / f"{release}.onnx").write_bytes(content)
        for index, item in enumerate(items, start=1):
            self.item(item, release, index)
        blocks = [items[:3], items[3:]]
        for block, part in enumerate(blocks):
            self.redis.set(self.keys.item_directory(release, block), json.dumps([one.id for one in part]))
        fields: dict[str, object] = {
            "id": release,
            "created_at": 1_700_000_000,
            "artifact": f"{release}.onnx",
            "artifact_sha256": hashlib.sha256(content).hexdigest(),
            "model": ModelName(name="tiny", version="1"),
            "schema_fingerprint": SCHEMA.fingerprint,
            "spaces": {side: space.fingerprint for side, space in SPACES.items()},
            "items": len(items),
            "directory_blocks": len(blocks),
        }
        manifest = ReleaseManifest.model_validate(fields | changes)
        self.redis.set(self.keys.release_manifest(release), manifest.model_dump_json())
        if switch:
            self.redis.set(self.keys.live, release)
        return manifest

    def item(self, item: TinyItem, release: str, index: int = 1) -> None:
        record = ItemRecord(
            owner=item.id,
            schema=SCHEMA.fingerprint,
            index=index,
            categorical=tuple(SCHEMA.encode_item_fields({"genre": list(item.genres)})),
            numeric=item.numeric(),
            written_at=0,
        )
        self.redis.set(self.keys.item_features(item.id, release), record.pack())
        if item.vector is not None:
            known = knowledge(item.id, ITEM_SPACE, [item.vector], item.knowledge_expires_at)
            self.redis.set(self.keys.item_knowledge(item.id, ITEM_SPACE.fingerprint), known)

    def user_knowledge(self, user_id: str, rows: Sequence[Sequence[float]], expires_at: int = 2**40) -> None:
        blob = knowledge(user_id, USER_SPACE, rows, expires_at)
        self.redis.set(self.keys.user_knowledge(user_id, USER_SPACE.fingerprint), blob)


def knowledge(owner: str, space: Space, rows: Sequence[Sequence[float]], expires_at: int = 2**40) -> bytes:
    vectors = np.asarray(rows, np.float32)
    return KnowledgeRecord(owner, space.fingerprint, vectors, int(time.time()), expires_at).pack()


def score_of(item: TinyItem, history: Sequence[float] = (), partitions: float = 0.0, knowledge: bool = True) -> float:
    """What the tiny model gives for a known item; ``partitions`` is the sum of the user's knowledge."""
    centered = [(value - SCHEMA.value_center) / SCHEMA.value_scale for value in history[-SCHEMA.history_length :]]
    fields = SCHEMA.encode_item_fields({"genre": list(item.genres)})
    logit = sum(item.numeric()) + 0.1 * sum(fields) + 0.1 * sum(centered)
    if knowledge:
        logit += sum(item.vector or ()) + 0.1 * partitions
    return float(1.0 / (1.0 + np.exp(-logit)))
