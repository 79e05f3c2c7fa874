"""The live pointer: stage, gate, switch, roll back, prune, with a real Valkey."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.contract.artifact import ArtifactError
from models.contract.events import Interaction
from models.contract.packing import KNOWLEDGE
from models.contract.schema import FeatureSchema
from models.split_model import ITEM_GRAPH, REQUEST_GRAPH, parts_folder
from offline.data.catalogue import DataError
from offline.knowledge.vectors import Knowledge
from offline.publish import gate, release
from offline.publish.connection import Store
from offline.publish.gate import GateError
from offline.publish.producer import spaces_of
from offline.publish.release import SwitchError
from service.scoring import load_model
from tests.contract.item_record import ItemRecord
from tests.offline.publish.conftest import (
    Release,
    commands_of,
    content_of,
    keys_of,
    killed_at,
    of_other_components,
    sibling,
)
from tests.synthetic import SCHEMA, knowledge_of, synthetic


def directory(store: Store, of: str) -> list[str]:
    ids: list[str] = []
    for block in range(release.read_manifest(store, of).directory_blocks):
        document: Any = store.redis.get(store.keys.item_directory(of, block))
        ids += json.loads(document)
    return ids


def test_a_release_lists_who_is_nobody_in_its_configuration(store: Store, trained: Release) -> None:
    """Also one that is live already; services are told, and a list that is the usual one is not written."""
    trained.publish(store)
    manifest, revision = (
        release.read_manifest(store, trained.id),
        store.redis.get(store.keys.release_revision(trained.id)),
    )
    assert manifest.nobody is None
    config = trained.data.config
    said = config.model_copy(update={"data": config.data.model_copy(update={"nobody": ("0",)})})
    for is_again in (False, True):
        replace(trained, data=replace(trained.data, config=said)).publish(store)
        assert release.read_manifest(store, trained.id) == manifest.model_copy(update={"nobody": ("0",)})
        revision, before = store.redis.get(store.keys.release_revision(trained.id)), revision
        assert (revision == before) == is_again
    trained.publish(store)
    assert release.read_manifest(store, trained.id) == manifest


def test_the_first_release_goes_live_complete(store: Store, trained: Release) -> None:
    published = trained.publish(store)
    assert (published.release, published.live_before, published.switched) == (trained.id, None, True)
    assert release.live_release(store) == trained.id
    assert release.releases(store) == [trained.id]
    manifest = release.read_manifest(store, trained.id)
    assert manifest.artifact_sha256 == trained.report.sha256
    assert manifest.schema_fingerprint == SCHEMA.fingerprint
    assert dict(manifest.spaces) == spaces_of(trained.data.knowledge.spaces)
    assert list(manifest.spaces) == ["item/text", "user/liber", "user/marc", "item/marc"]
    assert manifest.metrics == trained.report.metrics
    assert (manifest.items, manifest.directory_blocks) == (40, 1)
    assert directory(store, trained.id) == list(trained.data.log.item_ids)
    artifact = store.artifacts / manifest.artifact
    assert artifact.read_bytes() == (trained.models / trained.report.artifact).read_bytes()


def test_the_parts_that_are_published_are_those_that_a_service_opens(store: Store, trained: Release) -> None:
    trained.publish(store)
    manifest = release.read_manifest(store, trained.id)
    assert dict(manifest.parts) == trained.report.parts
    assert {REQUEST_GRAPH, ITEM_GRAPH} <= manifest.parts.keys()
    assert {path.name for path in parts_folder(store.artifacts / manifest.artifact).iterdir()} == manifest.parts.keys()
    model = load_model(store.artifacts, manifest, 1)
    assert (model.split is not None, model.problem) == (True, None)
    assert model.artifact == release.read_model(store.artifacts / manifest.artifact)


def test_parts_that_the_same_model_has_by_another_version_reach_the_live_release(
    store: Store, trained: Release
) -> None:
    whole = replace(trained, report=replace(trained.report, parts={}))
    assert whole.publish(store).switched
    revision = store.redis.get(store.keys.release_revision(trained.id))
    assert not whole.publish(store).switched
    assert store.redis.get(store.keys.release_revision(trained.id)) == revision
    assert not trained.publish(store).switched
    assert dict(release.read_manifest(store, trained.id).parts) == trained.report.parts
    assert store.redis.get(store.keys.release_revision(trained.id)) != revision


def test_a_large_catalogue_is_listed_in_blocks(store: Store) -> None:
    ids = [f"i{at}" for at in range(release.DIRECTORY_BLOCK * 2 + 1)]
    assert release.write_directory(store, "large", ids).written == 3
    blocks: list[Any] = [store.redis.get(store.keys.item_directory("large", block)) for block in range(3)]
    assert [item for block in blocks for item in json.loads(block)] == ids
    assert release.write_directory(store, "none", []).written == 0


def test_a_new_model_is_a_new_release(store: Store, trained: Release) -> None:
    trained.publish(store)
    second = trained.next("second")
    published = second.publish(store)
    assert (published.release, published.live_before, published.switched) == (second.id, trained.id, True)
    assert release.live_release(store) == second.id
    assert release.releases(store) == [trained.id, second.id]
    assert published.records["user/liber"].written == 0


def test_new_items_join_the_live_release(store: Store, trained: Release) -> None:
    trained.publish(store)
    grown = grown_by(trained, Interaction(user_id="u1", item_id="new", value=5, time_ms=10**10))
    published = grown.publish(store)
    assert not published.switched
    manifest = release.read_manifest(store, trained.id)
    assert manifest.items == 41
    assert directory(store, trained.id)[-1] == "new"
    assert store.redis.get(store.keys.release_revision(trained.id)) is not None
    assert release.releases(store) == [trained.id]


def grown_by(trained: Release, *entries: Interaction) -> Release:
    log, _ = trained.data.log.extended(entries, "9-0")
    return trained.with_data(log=log, knowledge=knowledge_of(trained.data.catalogue, log))


def test_a_publication_that_was_killed_anywhere_is_completed_by_the_next(store: Store, trained: Release) -> None:
    grown = grown_by(trained, Interaction(user_id="u1", item_id="new", value=5, time_ms=10**10)).shifted("marc")
    trained.publish(store)
    points = commands_of(lambda: grown.publish(store))
    expected = statements(store)
    assert points > 30
    for point in range(0, points, 3):  # of even and odd ones, which die after and before a command
        beside = sibling(store, f"killed-{point}")
        trained.publish(beside)
        with killed_at(point), pytest.raises(KeyboardInterrupt):
            grown.publish(beside)
        grown.publish(beside)
        assert directory(beside, trained.id)[-1] == "new"
        assert statements(beside) == expected, point
        assert beside.redis.get(beside.keys.release_revision(trained.id)) is not None
        assert beside.redis.get(beside.keys.release_pending(trained.id)) is None


def statements(store: Store) -> dict[str, bytes]:
    """Published values by key, without times and counts."""
    values = {key.removeprefix(store.keys.prefix): value for key, value in content_of(store).items()}
    for kind in (":stamp", ":installation", ":manifest", ":revision"):
        values = {key: value for key, value in values.items() if not key.endswith(kind)}
    return {key: timeless(key, value) for key, value in values.items()}


def timeless(key: str, value: bytes) -> bytes:
    if ":k:" in key:
        return KNOWLEDGE.content(value)
    if ":f:" in key:
        item = key[key.index("{i:") + 3 : key.index("}")]
        return replace(ItemRecord.unpack(value, item, SCHEMA), written_at=0).pack()
    return value


def test_a_publication_killed_before_it_told_the_services_is_announced_by_the_next(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.publish(store)
    grown = grown_by(trained, Interaction(user_id="u1", item_id="i0", value=5, time_ms=10**10))
    with monkeypatch.context() as patch:
        patch.setattr(release, "end_change", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            grown.publish(store)
    assert store.redis.get(store.keys.release_revision(trained.id)) is None
    assert grown.publish(store).records["item features"].written == 0
    position = store.redis.get(store.keys.release_revision(trained.id))
    assert position is not None
    grown.publish(store)
    assert store.redis.get(store.keys.release_revision(trained.id)) == position


def test_after_a_rollback_the_older_release_is_kept_current(store: Store, trained: Release) -> None:
    trained.publish(store)
    second = trained.next("second")
    second.publish(store)
    release.rollback(store)
    before: Any = store.redis.get(store.keys.item_features("i0", trained.id))
    grown = grown_by(
        second,
        Interaction(user_id="u1", item_id="i0", value=5, time_ms=10**10),
        Interaction(user_id="u1", item_id="new", value=5, time_ms=10**10 + 1),
    )
    published = grown.publish(store)
    assert (published.release, published.switched) == (second.id, False)
    after: Any = store.redis.get(store.keys.item_features("i0", trained.id))
    old, new = (ItemRecord.unpack(blob, "i0", SCHEMA) for blob in (before, after))
    assert new.index == old.index
    assert new.numeric != old.numeric
    assert directory(store, trained.id)[-1] == "new"
    assert store.redis.get(store.keys.release_revision(trained.id)) is not None


def test_a_release_that_was_rolled_back_from_stays_off_until_it_is_asked_for(store: Store, trained: Release) -> None:
    trained.publish(store)
    second = trained.next("second")
    second.publish(store)
    release.rollback(store)
    assert not second.publish(store).switched
    assert release.live_release(store) == trained.id
    assert second.publish(store, return_to=True).switched
    assert release.live_release(store) == second.id


@pytest.mark.parametrize("live", [False, True])
def test_a_model_of_another_schema_is_refused_before_anything_is_written(
    store: Store, trained: Release, live: bool
) -> None:
    if live:
        trained.publish(store)
    before = content_of(store)
    other = FeatureSchema.model_validate({**SCHEMA.model_dump(), "name": "other"})
    changed = trained.with_data(config=trained.data.config.model_copy(update={"feature_schema": other}))
    with pytest.raises(GateError, match=rf"trained on schema {SCHEMA.fingerprint}.*hold schema {other.fingerprint}"):
        changed.publish(store)
    assert content_of(store) == before


def test_a_model_of_another_space_is_refused_before_anything_is_written(store: Store, trained: Release) -> None:
    users = trained.data.knowledge.users["liber"]
    other = of_other_components(users.space)
    with pytest.raises(GateError, match=other.fingerprint):
        trained.with_users("liber", space=other).publish(store)
    assert content_of(store) == {}


def test_a_model_that_reads_a_producer_that_never_finished_is_refused(store: Store, trained: Release) -> None:
    produced = {name: knowledge for name, knowledge in trained.data.knowledge.produced.items() if name != "marc"}
    with pytest.raises(GateError, match="run `refresh`"):
        trained.with_data(knowledge=Knowledge(produced)).publish(store)
    assert content_of(store) == {}


def test_a_release_reads_only_the_knowledge_that_there_is(store: Store, trained: Release) -> None:
    poorer = trained.reading("text")
    assert set(poorer.publish(store).records) == {
        "user profiles", "user histories", "item/text", "item features", "item directory",
    }  # fmt: skip
    assert dict(release.read_manifest(store, poorer.id).spaces) == spaces_of(poorer.data.knowledge.spaces)
    assert trained.publish(store).switched
    release.rollback(store)
    grown = grown_by(trained, Interaction(user_id="u1", item_id="i0", value=5, time_ms=10**10))
    published = grown.publish(store)
    assert not published.switched
    assert published.records["item features"].written > 0  # the poorer release is kept current all the same


@pytest.mark.parametrize("content", [b"", b"no model at all", None])
def test_a_file_that_is_no_model_is_refused(store: Store, trained: Release, content: bytes | None) -> None:
    broken = trained.next("broken")
    path = broken.models / broken.report.artifact
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(GateError, match=r"broken\.onnx cannot be published"):
        broken.publish(store)
    assert content_of(store) == {}


def test_switching_is_compare_and_set(store: Store, trained: Release) -> None:
    trained.publish(store)
    second = trained.next("second")
    second.publish(store)
    with pytest.raises(SwitchError, match=f"live release is {second.id}, not {trained.id}"):
        release.switch(store, trained.id, trained.id)
    with pytest.raises(SwitchError, match="not None"):
        release.switch(store, None, trained.id)
    assert release.live_release(store) == second.id
    release.switch(store, second.id, trained.id)
    assert release.live_release(store) == trained.id


def test_nobody_can_switch_to_an_incomplete_release(store: Store, trained: Release) -> None:
    trained.publish(store)
    with pytest.raises(ArtifactError, match="release nowhere has no manifest"):
        release.switch(store, trained.id, "nowhere")
    store.redis.set(store.keys.release_manifest("odd"), b'{"format": 3}')
    with pytest.raises(ArtifactError, match="release odd is not understood"):
        release.switch(store, trained.id, "odd")
    assert release.live_release(store) == trained.id


def test_rolling_back(store: Store, trained: Release) -> None:
    with pytest.raises(SwitchError, match="nothing is live yet"):
        release.rollback(store)
    trained.publish(store)
    with pytest.raises(SwitchError, match=f"no release before {trained.id}"):
        release.rollback(store)
    second = trained.next("second")
    second.publish(store)
    assert release.rollback(store) == (second.id, trained.id)
    assert release.live_release(store) == trained.id
    assert release.rollback(store, second.id) == (trained.id, second.id)
    with pytest.raises(SwitchError, match=f"nowhere is not held; there are {trained.id}, {second.id}"):
        release.rollback(store, "nowhere")
    assert release.live_release(store) == second.id


def test_rolling_back_skips_what_was_rolled_back_from_before(store: Store, trained: Release) -> None:
    second, third = trained.next("second"), trained.next("third")
    trained.publish(store)
    second.publish(store)
    release.rollback(store)
    assert third.publish(store).pruned == [second.id]  # keep_releases = 2, and nobody wants to go back to this one
    assert release.rollback(store) == (third.id, trained.id)
    assert release.withdrawn(store) == [second.id, third.id]
    assert release.rollback(store, third.id) == (trained.id, third.id)
    assert release.withdrawn(store) == [second.id, trained.id]


def test_a_publication_killed_before_the_switch_is_switched_by_the_next(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.publish(store)
    second = trained.next("second")
    with monkeypatch.context() as patch:
        patch.setattr(release, "switch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            second.publish(store)
    assert release.live_release(store) == trained.id
    assert second.publish(store).switched
    assert release.live_release(store) == second.id


def test_a_refused_release_leaves_no_key_behind(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that the gate refuses when it is staged."""
    trained.publish(store)
    before = set(content_of(store))
    monkeypatch.setattr(gate, "_artifact", lambda *_: ["its artifact is damaged"])
    with pytest.raises(GateError, match="its artifact is damaged"):
        trained.next("second").publish(store)
    assert set(content_of(store)) == before


def test_an_incomplete_release_holds_back_nothing_else(store: Store, trained: Release) -> None:
    trained.publish(store)
    grown = grown_by(trained.next("second"), Interaction(user_id="u1", item_id="new", value=5, time_ms=10**10))
    with pytest.raises(GateError, match="only 40 of 41 items have knowledge item/text"):
        grown.publish(store)
    assert directory(store, trained.id)[-1] == "new"
    assert store.redis.get(store.keys.release_revision(trained.id)) is not None
    assert store.redis.get(store.keys.release_pending(trained.id)) is None
    assert release.live_release(store) == trained.id


def test_damaged_files_in_the_store_are_replaced(store: Store, trained: Release) -> None:
    trained.publish(store)
    artifact = store.artifacts / trained.report.artifact
    for copy in (artifact, parts_folder(artifact) / REQUEST_GRAPH):
        content = copy.read_bytes()
        copy.write_bytes(content[:100])
        trained.publish(store)
        assert copy.read_bytes() == content


def test_old_releases_are_pruned(store: Store, trained: Release) -> None:
    second, third = trained.next("second"), trained.next("third")
    trained.publish(store)
    second.publish(store)
    release.begin_change(store, trained.id)
    release.end_change(store, trained.id, changed=True)
    assert third.publish(store).pruned == [trained.id]  # keep_releases = 2
    assert release.releases(store) == [second.id, third.id]
    assert [key for key in keys_of(store.redis, f"{store.keys.prefix}:*") if trained.id in key] == []
    for left in (second, third):
        keys = {key for key in keys_of(store.redis, f"{store.keys.prefix}:*") if left.id in key}
        items = {store.keys.item_features(item, left.id) for item in trained.data.log.item_ids}
        assert keys == items | {store.keys.item_directory(left.id, 0), store.keys.release_manifest(left.id)}
    assert release.rollback(store) == (third.id, second.id)


def test_what_an_arm_pins_is_not_pruned(store: Store, trained: Release) -> None:
    trained.publish(store)
    store.redis.zadd(store.keys.pins, {trained.id: time.time() - 3600})
    for name in ("second", "third", "fourth"):
        trained.next(name).publish(store)
    assert trained.id in release.releases(store)
    assert release.read_manifest(store, trained.id).id == trained.id
    store.redis.zadd(store.keys.pins, {trained.id: time.time() - 30 * 86_400})
    assert release.prune(store, 2) == [trained.id], "no service has held it for a month"


def test_the_live_release_is_never_pruned(store: Store, trained: Release) -> None:
    second = trained.next("second")
    trained.publish(store)
    second.publish(store)
    release.rollback(store)
    for name in ("third", "fourth"):
        release.write_manifest(store, release.read_manifest(store, second.id).model_copy(update={"id": name}))
        release.record(store, name)
    assert release.prune(store, 2) == [second.id]
    assert release.releases(store) == [trained.id, "third", "fourth"]
    assert release.read_manifest(store, trained.id).id == trained.id
    assert store.redis.get(store.keys.item_features("i0", trained.id)) is not None
    assert release.prune(store, 2) == []


def test_pruning_a_release_without_manifest_forgets_it(store: Store, trained: Release) -> None:
    trained.publish(store)
    trained.next("second").publish(store)
    store.redis.delete(store.keys.release_manifest(trained.id))
    assert release.prune(store, 1) == [trained.id]


def test_only_keys_of_the_contract_under_the_prefix_are_written(store: Store, trained: Release) -> None:
    trained.publish(store)
    data, keys = trained.data, store.keys
    spaces = spaces_of(data.knowledge.spaces)
    expected = {keys.installation, keys.generation, keys.changes, keys.user_spaces}
    expected |= {keys.live, keys.releases, keys.release_manifest(trained.id), keys.item_directory(trained.id, 0)}
    for user in data.log.user_ids:
        expected |= {keys.user_profile(user), keys.user_history(user)}
        expected |= {keys.user_knowledge(user, spaces[key]) for key in ("user/liber", "user/marc")}
    for item in data.log.item_ids:
        expected |= {keys.item_features(item, trained.id)}
        expected |= {keys.item_knowledge(item, spaces[key]) for key in ("item/text", "item/marc")}
    assert keys_of(store.redis, f"{keys.prefix}*") == expected


def test_two_installations_on_one_server_do_not_see_each_other(store: Store, trained: Release) -> None:
    trained.publish(store)
    other = replace(store, keys=replace(store.keys, prefix=f"{store.keys.prefix}:inner"))
    assert release.live_release(other) is None
    assert release.releases(other) == []
    trained.next("second").publish(other)
    assert release.live_release(store) == trained.id


def test_users_of_no_closed_partition_get_no_record(store: Store, trained: Release) -> None:
    users = trained.data.knowledge.users["liber"]
    empty = {"vectors": users.vectors[:0], "start": np.zeros_like(users.start), "since": users.since[:0]}
    nothing = trained.with_users("liber", **empty)
    published = nothing.publish(store)
    assert published.records["user/liber"].written == 0
    assert published.switched


def test_knowledge_older_than_the_log_is_published_and_of_another_log_refused(store: Store, trained: Release) -> None:
    log, _ = trained.data.log.extended([Interaction(user_id="later", item_id="new", value=5, time_ms=10**10)], "9-0")
    published = trained.with_data(log=log).with_gate(min_item_coverage=0.9).publish(store)
    assert (published.records["user/liber"].written, published.records["item/text"].written) == (60, 40)
    fewer = synthetic(store.artifacts, users=59)
    with pytest.raises(DataError, match="knows 60 users, the log 59"):
        trained.with_data(log=fewer.log).publish(store)
