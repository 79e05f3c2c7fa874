"""The properties that a release must show before traffic moves to it, read back from where the service reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema
from models.split_model import parts_folder
from offline.config import PublishConfig
from offline.data.files import file_digest
from offline.publish.connection import Store
from offline.publish.release import read_model
from offline.publish.snapshot import StoredItems, read_items


class GateError(RuntimeError):
    """The release is not fit to be served; the live one stays. The message lists every reason."""


def check_model(path: Path, schema: FeatureSchema, spaces: Iterable[Space]) -> ArtifactManifest:
    """The manifest inside a model. GateError unless it was trained on this schema and these spaces. Asked before any
    record is written: the records of a live release must never be rewritten for features that its model does not
    know."""
    try:
        model = read_model(path)
    except ArtifactError as error:
        raise GateError(f"model {path} cannot be published: {error}") from error
    trained_on = {space.key: space.fingerprint for space in model.spaces}
    current = {space.key: space.fingerprint for space in spaces}
    if (model.feature_schema.fingerprint, trained_on) != (schema.fingerprint, current):
        raise GateError(
            f"model {path} was trained on schema {model.feature_schema.fingerprint} and spaces {trained_on}, but the "
            f"jobs hold schema {schema.fingerprint} and spaces {current}: run `refresh`, or `train` before `publish`"
        )
    return model


def check(store: Store, config: PublishConfig, manifest: ReleaseManifest, artifact: ArtifactManifest) -> StoredItems:
    """The items of a staged release as they are stored. GateError unless it is complete and covered; ``artifact`` is
    what its model says of itself. How good the model is, is not asked here: see ``comparison``."""
    reasons = _artifact(store, manifest)
    try:
        items = read_items(store, manifest, artifact)
        reasons += _items(config, manifest, items)
    except ArtifactError as error:
        reasons.append(str(error))
    if reasons:
        raise GateError(f"release {manifest.id} is refused: " + "; ".join(reasons))
    return items


def _artifact(store: Store, manifest: ReleaseManifest) -> list[str]:
    path = store.artifacts / manifest.artifact
    parts = {parts_folder(path) / name: digest for name, digest in manifest.parts.items()}
    reasons = []
    for file, expected in ({path: manifest.artifact_sha256} | parts).items():
        digest = file_digest(file)
        if digest != expected:
            reasons.append(f"artifact {file} " + ("does not exist" if digest == "absent" else f"has digest {digest}"))
    return reasons


def _items(config: PublishConfig, manifest: ReleaseManifest, items: StoredItems) -> list[str]:
    reasons = [] if items.listed == manifest.items else [f"{items.listed} items listed, {manifest.items} promised"]
    if not items.items:
        reasons.append("no item has a valid record")
    if items.featured < items.listed:
        reasons.append(f"{items.listed - items.featured} items without a valid feature record")
    for key, count in items.covered.items():
        if count / items.listed < config.min_item_coverage:
            reasons.append(f"only {count} of {items.listed} items have knowledge {key}")
    return reasons
