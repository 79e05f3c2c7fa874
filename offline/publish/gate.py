"""What a release must show before traffic moves to it. Everything is read back from where the service reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.items import ItemRecord
from models.contract.knowledge import KnowledgeRecord, RecordError, Space
from models.contract.schema import FeatureSchema
from offline.config import PublishConfig
from offline.publish.connection import Store
from offline.publish.release import live_release, read_manifest


class GateError(RuntimeError):
    """The release is not fit to be served; the live one stays. The message lists every reason."""


def check_model(path: Path, schema: FeatureSchema, spaces: Mapping[str, Space]) -> None:
    """GateError unless the model was trained on this schema and these spaces. Asked before any record is written: the
    records of a live release must never be rewritten for features that its model does not know."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # what onnx raises

    try:
        properties = onnx.load_model(path, load_external_data=False).metadata_props
        model = ArtifactManifest.from_metadata({one.key: one.value for one in properties})
    except (OSError, DecodeError, ArtifactError) as error:
        raise GateError(f"model {path} cannot be published: {error}") from error
    trained_on = {side: space.fingerprint for side, space in model.spaces.items()}
    held = {side: space.fingerprint for side, space in spaces.items()}
    if (model.feature_schema.fingerprint, trained_on) != (schema.fingerprint, held):
        raise GateError(
            f"model {path} was trained on schema {model.feature_schema.fingerprint} and spaces {trained_on}, but the "
            f"jobs hold schema {schema.fingerprint} and spaces {held}: run `refresh`, or `train` before `publish`"
        )


def check(store: Store, config: PublishConfig, manifest: ReleaseManifest, schema: FeatureSchema) -> None:
    """GateError unless the staged release is complete, covered, and no worse than the live one."""
    reasons = _artifact(store, manifest) + _items(store, config, manifest, schema) + _quality(store, config, manifest)
    if reasons:
        raise GateError(f"release {manifest.id} is refused: " + "; ".join(reasons))


def _artifact(store: Store, manifest: ReleaseManifest) -> list[str]:
    path = store.artifacts / manifest.artifact
    if not path.is_file():
        return [f"artifact {path} does not exist"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return [] if digest == manifest.artifact_sha256 else [f"artifact {path} has digest {digest}"]


def _items(store: Store, config: PublishConfig, manifest: ReleaseManifest, schema: FeatureSchema) -> list[str]:
    ids: list[str] = []
    for block in range(manifest.directory_blocks):
        held: Any = store.redis.get(store.keys.item_directory(manifest.id, block))
        if held is None:
            return [f"item directory block {block} is missing"]
        ids += json.loads(held)
    reasons = [] if len(ids) == manifest.items else [f"{len(ids)} items listed, {manifest.items} promised"]
    space = manifest.spaces["item"]
    broken = covered = 0
    for at in range(0, len(ids), 1000):
        chunk = ids[at : at + 1000]
        features: Any = store.redis.mget([store.keys.item_features(item, manifest.id) for item in chunk])
        knowledge: Any = store.redis.mget([store.keys.item_knowledge(item, space) for item in chunk])
        for item, packed, vectors in zip(chunk, features, knowledge, strict=True):
            try:
                ItemRecord.unpack(packed or b"", item, schema)
            except RecordError:
                broken += 1
            with suppress(RecordError):  # counts as not covered
                known = KnowledgeRecord.unpack(vectors or b"", item, space)
                covered += known.vectors.shape == (1, schema.knowledge_dim)
    if broken:
        reasons.append(f"{broken} items without a valid feature record")
    if ids and covered / len(ids) < config.min_item_coverage:
        reasons.append(f"only {covered} of {len(ids)} items have knowledge")
    return reasons


def _quality(store: Store, config: PublishConfig, manifest: ReleaseManifest) -> list[str]:
    live = live_release(store)
    if live is None or live == manifest.id:
        return []
    try:
        before = read_manifest(store, live).metrics.get("validation_auc")
    except ArtifactError:
        return []  # a live release nobody can read cannot hold back its successor
    now = manifest.metrics.get("validation_auc")
    if before is None or now is None or now >= before - config.max_auc_drop:
        return []
    return [f"validation AUC {now:.4f} is more than {config.max_auc_drop} below the live release's {before:.4f}"]
