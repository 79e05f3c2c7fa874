"""Indexes of a release: made of what Redis holds, good enough or not published, and made again when vectors change."""

from __future__ import annotations

import os
import time
from typing import Any

import faiss
import numpy as np
import pytest

from models.contract.events import item_hash
from models.contract.knowledge import KnowledgeRecord
from offline.config import RetrievalConfig
from offline.publish import indexes, release, snapshot
from offline.publish.connection import Store
from offline.publish.gate import GateError
from offline.publish.indexes import refreshed, roles
from offline.publish.staging import end_change
from offline.retrieval.build import RecallError
from tests.offline.publish.conftest import Release, content_of, roll_back

MATCHING = RetrievalConfig(matching="marc")


def with_retrieval(trained: Release, config: RetrievalConfig = MATCHING) -> Release:
    return trained.with_data(config=trained.data.config.model_copy(update={"retrieval": config}))


def files(store: Store) -> set[str]:
    return {path.name for path in store.artifacts.glob("items-*.faiss")}


def vectors_of(store: Store, role: Any) -> dict[int, Any]:
    """Vectors in the live release's index, by item hash."""
    live = release.live_release(store)
    assert live is not None
    described = release.read_manifest(store, live).indexes[role]
    named: Any = faiss.read_index(str(store.artifacts / described.file))
    ids = faiss.vector_to_array(named.id_map)
    inner = faiss.downcast_index(named.index)
    return {int(number) % 2**64: inner.reconstruct(at) for at, number in enumerate(ids.tolist())}


def in_redis(store: Store, trained: Release, name: str) -> dict[int, Any]:
    space = trained.data.knowledge.items[name].space.fingerprint
    vectors = {}
    for item in trained.data.log.item_ids:
        blob: Any = store.redis.get(store.keys.item_knowledge(item, space))
        if blob is not None:
            vectors[item_hash(item)] = KnowledgeRecord.unpack(blob, item, space).vectors[0]
    return vectors


def assert_current(store: Store, trained: Release) -> None:
    for role, name in (("matching", "marc"), ("neighbours", "text")):
        indexed, stored = vectors_of(store, role), in_redis(store, trained, name)
        assert indexed.keys() == stored.keys()
        for number, vector in stored.items():
            np.testing.assert_array_equal(indexed[number], vector)


def test_a_release_has_an_index_of_each_role(store: Store, trained: Release) -> None:
    published = with_retrieval(trained).publish(store)
    manifest = release.read_manifest(store, published.release)
    assert {role: index.space for role, index in manifest.indexes.items()} == {
        "matching": "item/marc",
        "neighbours": "item/text",
    }
    matching = manifest.indexes["matching"]
    assert (matching.kind, matching.recall, matching.top) == ("flat", 1.0, matching.items)
    assert files(store) == {index.file for index in manifest.indexes.values()}
    assert_current(store, trained)


def test_nothing_changed_makes_nothing(store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)
    before = content_of(store)
    monkeypatch.setattr(indexes, "build", lambda *_: pytest.fail("an index was made"))
    configured.publish(store)
    assert content_of(store) == before
    live = configured.next("again")  # another model on the same vectors
    assert live.publish(store).switched
    assert release.read_manifest(store, live.id).indexes == release.read_manifest(store, configured.id).indexes


def test_changed_vectors_are_indexed_within_the_release(store: Store, trained: Release) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)
    before = release.read_manifest(store, trained.id).indexes
    revision = store.redis.get(store.keys.release_revision(trained.id))
    configured.shifted("marc").publish(store)
    after = release.read_manifest(store, trained.id).indexes
    assert after["matching"].file != before["matching"].file
    assert after["neighbours"] == before["neighbours"]
    assert store.redis.get(store.keys.release_revision(trained.id)) != revision
    assert_current(store, trained)


def test_one_producer_published_and_rolled_back_alone(store: Store, trained: Release) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)
    before = release.read_manifest(store, trained.id).indexes
    configured.shifted("marc").publish_alone(store, "marc")
    assert release.read_manifest(store, trained.id).indexes["matching"] != before["matching"]
    assert_current(store, trained)
    config, users = configured.config(store), trained.data.log.user_ids
    roll_back(store, "marc", lambda live, changed: end_change(config, store, live, changed, users))
    assert release.read_manifest(store, trained.id).indexes == before
    assert_current(store, trained)


def test_an_index_that_finds_too_little_is_not_published(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)

    def poor(*_: object) -> None:
        raise RecallError("finds 0.5 at most")

    monkeypatch.setattr(indexes, "build", poor)
    with pytest.raises(GateError, match=r"index of item/marc: finds 0\.5 at most"):
        configured.shifted("marc").next("worse").publish(store)
    assert release.live_release(store) == trained.id
    assert release.releases(store) == [trained.id]


def test_services_are_told_of_new_records_even_if_their_index_is_refused(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)
    revision = store.redis.get(store.keys.release_revision(trained.id))

    def poor(*_: object) -> None:
        raise RecallError("finds 0.5 at most")

    monkeypatch.setattr(indexes, "build", poor)
    with pytest.raises(GateError):
        configured.shifted("marc").publish(store)
    assert store.redis.get(store.keys.release_revision(trained.id)) != revision
    assert store.redis.get(store.keys.release_pending(trained.id)) is None


def test_files_that_no_release_names_go_after_a_while(store: Store, trained: Release) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)
    first = files(store)
    configured.shifted("marc").publish(store)
    both = files(store)
    assert first < both
    snapshot.prune(store)
    assert files(store) == both
    for path in store.artifacts.glob("items-*"):
        os.utime(path, (time.time() - 7200,) * 2)
    snapshot.prune(store)
    named = {index.file for index in release.read_manifest(store, trained.id).indexes.values()}
    assert files(store) == named
    assert {path.stem for path in store.artifacts.glob("items-*.json")} == {
        name.removesuffix(".faiss") for name in named
    }


def test_a_damaged_description_is_made_again(store: Store, trained: Release) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)
    before = release.read_manifest(store, trained.id).indexes
    for path in store.artifacts.glob("items-*.json"):
        path.write_text("{}")
    assert not refreshed(store, MATCHING, trained.id, trained.data.log.user_ids)
    assert release.read_manifest(store, trained.id).indexes == before


@pytest.mark.parametrize(
    ("spaces", "config", "expected"),
    [
        (["user/autograph", "item/autograph", "item/text"], {}, {"matching": "autograph", "neighbours": "text"}),
        (["user/autograph", "item/autograph"], {}, {"matching": "autograph", "neighbours": "autograph"}),
        (["item/autograph"], {}, {}),
        (["item/text"], {}, {"neighbours": "text"}),
        (["item/text", "item/marc"], {"neighbours": "marc"}, {"neighbours": "marc"}),
        (["user/autograph", "item/autograph", "item/text"], {"enabled": False}, {}),
        (["user/liber"], {}, {}),
    ],
)
def test_roles_follow_from_the_spaces(spaces: list[str], config: dict[str, Any], expected: dict[str, str]) -> None:
    assert roles(RetrievalConfig.model_validate(config), dict.fromkeys(spaces, "f")) == expected


def test_one_producer_in_both_roles_has_one_index(store: Store, trained: Release) -> None:
    published = with_retrieval(trained, RetrievalConfig(matching="marc", neighbours="marc")).publish(store)
    indexes_of = release.read_manifest(store, published.release).indexes
    assert indexes_of["matching"] == indexes_of["neighbours"]
    assert files(store) == {indexes_of["matching"].file}


@pytest.mark.parametrize(
    ("changes", "roles_then"),
    [
        ({"enabled": False}, set()),
        ({"kind": "hnsw"}, {"matching", "neighbours"}),
        ({"top": 7}, {"matching", "neighbours"}),
        ({"neighbours": "marc"}, {"matching", "neighbours"}),
    ],
)
def test_settings_take_effect_although_no_record_changed(
    store: Store, trained: Release, changes: dict[str, Any], roles_then: set[str]
) -> None:
    configured = with_retrieval(trained)
    configured.publish(store)
    revision = store.redis.get(store.keys.release_revision(trained.id))
    before = release.read_manifest(store, trained.id).indexes
    config = MATCHING.model_copy(update=changes)
    with_retrieval(trained, config).publish(store)
    manifest = release.read_manifest(store, trained.id)
    assert (set(manifest.indexes), manifest.indexes == before) == (roles_then, False)
    assert not indexes.outdated(store, config, manifest)
    assert store.redis.get(store.keys.release_revision(trained.id)) != revision
    written = content_of(store)
    with_retrieval(trained, config).publish(store)
    assert content_of(store) == written
