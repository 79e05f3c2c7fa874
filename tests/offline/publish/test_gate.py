"""The gate: a release that is not fit to be served is refused with every reason, and the live one stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from models.contract.artifact import ReleaseManifest
from models.contract.knowledge import KnowledgeRecord
from models.split_model import REQUEST_GRAPH, parts_folder
from offline.publish import gate, release
from offline.publish.connection import Store
from offline.publish.gate import GateError
from tests.offline.publish.conftest import Release, content_of

Sabotage = Callable[[Store, Release, ReleaseManifest], None]


def _no_artifact(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    (store.artifacts / manifest.artifact).unlink()


def _wrong_artifact(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    path = store.artifacts / manifest.artifact
    path.write_bytes(path.read_bytes() + b"\0")


def _wrong_part(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    (parts_folder(store.artifacts / manifest.artifact) / REQUEST_GRAPH).write_bytes(b"half of it")


def _no_item_records(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    store.redis.delete(*(store.keys.item_features(item, manifest.id) for item in ("i0", "i7", "i39")))


def _item_records_of_others(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    blob = store.redis.get(store.keys.item_features("i1", manifest.id))
    assert isinstance(blob, bytes)
    store.redis.set(store.keys.item_features("i0", manifest.id), blob)


def _no_directory(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    store.redis.delete(store.keys.item_directory(manifest.id, 0))


def _short_directory(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    release.write_directory(store, manifest.id, trained.data.log.item_ids[:-1])


def _no_knowledge(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    store.redis.delete(store.keys.item_knowledge("i5", manifest.spaces["item/text"]))


def _damaged_knowledge(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    store.redis.setrange(store.keys.item_knowledge("i5", manifest.spaces["item/marc"]), 50, b"\xff\xff")


def _knowledge_of_another_width(store: Store, trained: Release, manifest: ReleaseManifest) -> None:
    space = manifest.spaces["item/marc"]
    record = KnowledgeRecord("i5", space, np.zeros((1, 6), np.float32), 0, 1)
    store.redis.set(store.keys.item_knowledge("i5", space), record.pack())


@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        (_no_artifact, r"artifact .*\.onnx does not exist"),
        (_wrong_artifact, r"artifact .*\.onnx has digest"),
        (_wrong_part, r"artifact .*request\.onnx has digest"),
        (_no_item_records, "3 items without a valid feature record"),
        (_item_records_of_others, "1 items without a valid feature record"),
        (_no_directory, "item directory block 0 is missing"),
        (_short_directory, "39 items listed, 40 promised"),
        (_no_knowledge, "only 39 of 40 items have knowledge item/text$"),
        (_damaged_knowledge, "only 39 of 40 items have knowledge item/marc$"),
        (_knowledge_of_another_width, "only 39 of 40 items have knowledge item/marc$"),
    ],
)
def test_an_incomplete_release_is_refused(store: Store, trained: Release, sabotage: Sabotage, reason: str) -> None:
    trained.publish(store)
    manifest = release.read_manifest(store, trained.id)
    gate.check(store, trained.data.config.publish, manifest, trained.artifact)
    sabotage(store, trained, manifest)
    with pytest.raises(GateError, match=f"release {manifest.id} is refused: {reason}"):
        gate.check(store, trained.data.config.publish, manifest, trained.artifact)


def test_every_reason_is_listed(store: Store, trained: Release) -> None:
    trained.publish(store)
    manifest = release.read_manifest(store, trained.id)
    for sabotage in (_no_artifact, _no_item_records, _no_knowledge, _damaged_knowledge):
        sabotage(store, trained, manifest)
    with pytest.raises(GateError, match=r"does not exist; 3 items without .*; only 39 of 40 .*text; only 39 of .*marc"):
        gate.check(store, trained.data.config.publish, manifest, trained.artifact)


def _refused(store: Store, candidate: Release, reason: str) -> None:
    """Publishing the candidate fails for the reason, and what is served is byte for byte what was served before."""
    before = content_of(store)
    with pytest.raises(GateError, match=reason):
        candidate.publish(store)
    after = content_of(store)
    assert {key: after.get(key) for key in before} == before
    assert candidate.id not in release.releases(store)
    assert store.redis.get(store.keys.release_manifest(candidate.id)) is None


def test_low_coverage_is_refused_before_anything_is_live(store: Store, trained: Release) -> None:
    known = np.arange(len(trained.data.log.item_ids)) % 2 == 0
    poor = trained.with_items("marc", known=known)
    _refused(store, poor, "refused: only 20 of 40 items have knowledge item/marc$")
    assert release.live_release(store) is None
    assert poor.with_gate(min_item_coverage=0.5).publish(store).switched


def test_a_damaged_artifact_is_refused_and_the_live_one_stays(store: Store, trained: Release) -> None:
    trained.publish(store)
    second = trained.next("second")
    promised = replace(second, report=replace(second.report, sha256="0" * 64))
    _refused(store, promised, r"second\.onnx has digest")
    assert release.live_release(store) == trained.id
