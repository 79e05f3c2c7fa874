"""What a release must show before traffic moves to it. Everything is read back from where the service reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.items import ItemRecord
from models.contract.knowledge import RecordError, Space
from models.contract.schema import FeatureSchema
from models.split_model import parts_folder
from offline.config import PublishConfig
from offline.data.files import file_digest
from offline.publish.connection import Store
from offline.publish.knowledge import readable
from offline.publish.records import chunks
from offline.publish.release import live_release, read_directory, read_manifest


class GateError(RuntimeError):
    """The release is not fit to be served; the live one stays. The message lists every reason."""


def check_model(path: Path, schema: FeatureSchema, spaces: Iterable[Space]) -> None:
    """GateError unless the model was trained on this schema and these spaces. Asked before any record is written: the
    records of a live release must never be rewritten for features that its model does not know."""
    try:
        model = read_model(path)
    except ArtifactError as error:
        raise GateError(f"model {path} cannot be published: {error}") from error
    trained_on = {space.key: space.fingerprint for space in model.spaces}
    held = {space.key: space.fingerprint for space in spaces}
    if (model.feature_schema.fingerprint, trained_on) != (schema.fingerprint, held):
        raise GateError(
            f"model {path} was trained on schema {model.feature_schema.fingerprint} and spaces {trained_on}, but the "
            f"jobs hold schema {schema.fingerprint} and spaces {held}: run `refresh`, or `train` before `publish`"
        )


def read_model(path: Path) -> ArtifactManifest:
    """The manifest inside a model's file; ArtifactError if there is none."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # what onnx raises

    try:
        properties = onnx.load_model(path, load_external_data=False).metadata_props
    except (OSError, DecodeError) as error:
        raise ArtifactError(str(error)) from error
    return ArtifactManifest.from_metadata({one.key: one.value for one in properties})


def check(store: Store, config: PublishConfig, manifest: ReleaseManifest, schema: FeatureSchema) -> None:
    """GateError unless the staged release is complete, covered, and no worse than the live one."""
    reasons = _artifact(store, manifest) + _items(store, config, manifest, schema) + _quality(store, config, manifest)
    if reasons:
        raise GateError(f"release {manifest.id} is refused: " + "; ".join(reasons))


def _artifact(store: Store, manifest: ReleaseManifest) -> list[str]:
    path = store.artifacts / manifest.artifact
    parts = {parts_folder(path) / name: digest for name, digest in manifest.parts.items()}
    reasons = []
    for file, expected in ({path: manifest.artifact_sha256} | parts).items():
        digest = file_digest(file)
        if digest != expected:
            reasons.append(f"artifact {file} " + ("does not exist" if digest == "absent" else f"has digest {digest}"))
    return reasons


def _items(store: Store, config: PublishConfig, manifest: ReleaseManifest, schema: FeatureSchema) -> list[str]:
    try:
        ids = read_directory(store, manifest)
    except ArtifactError as error:
        return [str(error)]
    reasons = [] if len(ids) == manifest.items else [f"{len(ids)} items listed, {manifest.items} promised"]
    specs = schema.item_knowledge
    covered = dict.fromkeys((spec.key for spec in specs), 0)
    broken = 0
    for chunk in chunks(ids):
        features: Any = store.redis.mget([store.keys.item_features(item, manifest.id) for item in chunk])
        broken += sum(not _is_valid(blob, item, schema) for blob, item in zip(features, chunk, strict=True))
        for spec in specs:
            covered[spec.key] += _covered(store, chunk, manifest.spaces[spec.key], spec.dim)
    if broken:
        reasons.append(f"{broken} items without a valid feature record")
    for key, count in covered.items():
        if ids and count / len(ids) < config.min_item_coverage:
            reasons.append(f"only {count} of {len(ids)} items have knowledge {key}")
    return reasons


def _is_valid(blob: bytes | None, item: str, schema: FeatureSchema) -> bool:
    try:
        ItemRecord.unpack(blob or b"", item, schema)
    except RecordError:
        return False
    return True


def _covered(store: Store, items: list[str], space: str, dim: int) -> int:
    """How many of ``items`` have a whole record of one vector of ``dim`` numbers."""
    blobs: Any = store.redis.mget([store.keys.item_knowledge(item, space) for item in items])
    records = [readable(blob, item, space) for blob, item in zip(blobs, items, strict=True)]
    return sum(record is not None and record.vectors.shape == (1, dim) for record in records)


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
