"""The tiny model and what it was made for: a schema, spaces, a manifest, and a graph that can be computed by hand.

score = sigmoid(sum(item_numeric) + sum(item_vectors * ITEM_WEIGHTS) + 0.1 * sum(item_categorical)
                + 0.1 * sum(history_value) + 0.1 * sum(partition_vectors) + sum(user_vectors * USER_WEIGHTS))

Two spaces per side: "liber", a sequence for users, and a second one, of a single vector. Every space has weights of
its own, so that a vector in the wrong columns shows. A model of a schema without knowledge lacks the terms of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.contract.artifact import METADATA_KEY, ArtifactManifest, ModelName
from models.contract.encoding import model_inputs
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema, FieldSpec, KnowledgeSpec

SCHEMA = FeatureSchema(
    name="tiny",
    user_fields=(FieldSpec(name="gender", vocab=("M", "F")), FieldSpec(name="age", edges=(18.0, 40.0))),
    item_fields=(FieldSpec(name="genre", vocab=("drama", "comedy", "horror"), slots=2),),
    history_length=4,
    knowledge=(
        KnowledgeSpec(name="liber", side="user", rows=2, dim=3),
        KnowledgeSpec(name="liber", side="item", dim=3),
        KnowledgeSpec(name="facts", side="item", dim=2),
        KnowledgeSpec(name="portrait", side="user", dim=2),
    ),
)
BARE_SCHEMA = SCHEMA.with_knowledge(())

USER_SPACE = Space(name="liber", side="user", rows=2, dim=3, components={"llm": "none"})
ITEM_SPACE = Space(name="liber", side="item", rows=1, dim=3, components={"llm": "none"})
FACTS_SPACE = Space(name="facts", side="item", rows=1, dim=2, components={"llm": "none"})
PORTRAIT_SPACE = Space(name="portrait", side="user", rows=1, dim=2, components={"llm": "none"})
SPACES = (FACTS_SPACE, PORTRAIT_SPACE, USER_SPACE, ITEM_SPACE)  # not the schema's order, which alone must count
FINGERPRINTS = {space.key: space.fingerprint for space in SPACES}

ITEM_WEIGHTS = (1.0, 1.0, 1.0, 0.5, 0.25)
USER_WEIGHTS = (0.2, 0.4)

_PARTS = {
    "user": "user_categorical",
    "history": "history_value",
    "portrait": "user_vectors",
    "partition": "partition_vectors",
    "index": "item_index",
    "fields": "item_categorical",
    "numeric": "item_numeric",
    "vectors": "item_vectors",
}
"""Terms of the score, and the input of each."""

INPUTS = tuple(_PARTS.values())
_SHAPES = {
    "user_categorical": (TensorProto.INT64, [1, SCHEMA.user_slots]),
    "history_value": (TensorProto.FLOAT, [1, "T"]),
    "user_vectors": (TensorProto.FLOAT, [1, SCHEMA.user_width]),
    "partition_vectors": (TensorProto.FLOAT, [1, 2, 3]),
    "item_index": (TensorProto.INT64, ["C"]),
    "item_categorical": (TensorProto.INT64, ["C", SCHEMA.item_slots]),
    "item_numeric": (TensorProto.FLOAT, ["C", 3]),
    "item_vectors": (TensorProto.FLOAT, ["C", SCHEMA.item_width]),
}


def inputs_of(schema: FeatureSchema) -> tuple[str, ...]:
    """Inputs of the tiny model of ``schema``."""
    return tuple(name for name in INPUTS if name in model_inputs(schema))


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


def bare_manifest() -> ArtifactManifest:
    """Of the tiny model that reads no knowledge."""
    return artifact_manifest(feature_schema=BARE_SCHEMA, spaces=(), inputs=inputs_of(BARE_SCHEMA))


def model_bytes(
    manifest: ArtifactManifest | None = None,
    user_rows: int = 8,
    offset: float = 0.0,
    takes: Sequence[str] | None = None,
) -> bytes:
    """The tiny model of the manifest's schema. With ``user_rows=1`` its user embedding is too short for any user with
    known fields: it fails. ``takes`` are its inputs, if they shall not be those of the schema."""
    manifest = manifest or artifact_manifest()
    takes = inputs_of(manifest.feature_schema) if takes is None else takes

    def total(source: str, target: str, axes: Sequence[int]) -> list[onnx.NodeProto]:
        constants.append(numpy_helper.from_array(np.asarray(axes, np.int64), f"{target}_axes"))
        return [helper.make_node("ReduceSum", [source, f"{target}_axes"], [target], keepdims=0)]

    constants = [
        numpy_helper.from_array(np.zeros((user_rows, 1), np.float32), "user_table"),
        numpy_helper.from_array(np.asarray(0.1, np.float32), "tenth"),
        numpy_helper.from_array(np.asarray([offset], np.float32), "offset"),
        numpy_helper.from_array(np.asarray(0.0, np.float32), "zero"),
        numpy_helper.from_array(np.asarray(ITEM_WEIGHTS, np.float32), "item_weights"),
        numpy_helper.from_array(np.asarray(USER_WEIGHTS, np.float32), "user_weights"),
    ]
    terms = {
        "user": [
            helper.make_node("Gather", ["user_table", "user_categorical"], ["user_rows"], axis=0),
            *total("user_rows", "user_sum", [1, 2]),
        ],
        "history": [
            *total("history_value", "history_raw", [1]),
            helper.make_node("Mul", ["history_raw", "tenth"], ["history_sum"]),
        ],
        "portrait": [
            helper.make_node("Mul", ["user_vectors", "user_weights"], ["portrait_raw"]),
            *total("portrait_raw", "portrait_sum", [1]),
        ],
        "partition": [
            *total("partition_vectors", "partition_raw", [1, 2]),
            helper.make_node("Mul", ["partition_raw", "tenth"], ["partition_sum"]),
        ],
        "index": [
            helper.make_node("Cast", ["item_index"], ["index_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["index_float", "zero"], ["index_sum"]),
        ],
        "fields": [
            helper.make_node("Cast", ["item_categorical"], ["item_fields"], to=TensorProto.FLOAT),
            *total("item_fields", "fields_raw", [1]),
            helper.make_node("Mul", ["fields_raw", "tenth"], ["fields_sum"]),
        ],
        "numeric": total("item_numeric", "numeric_sum", [1]),
        "vectors": [
            helper.make_node("Mul", ["item_vectors", "item_weights"], ["vectors_raw"]),
            *total("vectors_raw", "vectors_sum", [1]),
        ],
    }
    parts = [part for part, name in _PARTS.items() if name in takes]
    nodes = [
        *(node for part in parts for node in terms[part]),
        helper.make_node("Sum", [*(f"{part}_sum" for part in parts), "offset"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *_SHAPES[name]) for name in takes],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["C"])],
        [constant for constant in constants if constant.name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
