"""The item table as files: what they hold, when they are written again, and what names changes between."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.contract.artifact import ItemSnapshot
from models.contract.events import Interaction
from models.contract.items import ItemTable
from models.contract.snapshot import changed_items, file_of, model_columns, read_columns
from models.split_model import SplitModel, parts_folder
from offline.publish import records, release, snapshot
from offline.publish.connection import Store
from tests.offline.publish.conftest import Release, bytes_written, roll_back
from tests.offline.publish.test_release import grown_by
from tests.synthetic import SCHEMA


def published(store: Store, of: str) -> ItemSnapshot:
    files = release.read_manifest(store, of).snapshot
    assert files is not None
    return files


def named(store: Store, of: str, since: str) -> list[str] | None:
    """Items of which the stream says that their records were written."""
    entries: Any = store.redis.xrange(store.keys.changes, min=since)
    return changed_items(entries, since, {of, *release.read_manifest(store, of).spaces.values()})


def of_one_item(trained: Release) -> Release:
    """The same with one more interaction, which changes the statistics of i0."""
    return grown_by(trained, Interaction(user_id="u1", item_id="i0", value=5, time_ms=10**10))


def test_the_files_hold_what_the_records_say(store: Store, trained: Release) -> None:
    trained.publish(store)
    files = published(store, trained.id)
    columns = read_columns(store.artifacts, files.columns)
    table = ItemTable.of(columns, files.items)
    assert list(table.ids) == ["", *trained.data.log.item_ids]
    for name, cells in SCHEMA.item_columns.items():
        items = trained.data.knowledge.items[name]
        assert np.allclose(table.vectors[1:, cells][items.known], items.published[items.known], atol=1e-2)
    assert (table.expires_at[1:] > time.time()).all()
    split = SplitModel.open(parts_folder(store.artifacts / trained.report.artifact), 1)
    computed = split.table_columns(table)
    assert set(model_columns(columns)) == set(computed) != set()
    for name, column in computed.items():
        assert np.array_equal(columns[name][: len(table)], column)
        assert len(columns[name]) == len(columns["index"]) > len(table)


def test_a_refresh_names_what_it_changes_and_writes_no_files(store: Store, trained: Release) -> None:
    first = trained.publish(store)
    files, written = published(store, trained.id), {path.name for path in store.artifacts.iterdir()}
    again = of_one_item(trained).publish(store)
    assert bytes_written(again) < bytes_written(first) / 10
    assert published(store, trained.id) == files
    assert {path.name for path in store.artifacts.iterdir()} == written
    assert named(store, trained.id, files.changes) == ["i0"]
    revision: Any = store.redis.get(store.keys.release_revision(trained.id))
    (last,) = store.redis.xrevrange(store.keys.changes, count=1)  # type: ignore[misc]  # its stub is of both clients
    assert last[0] == revision, "the mark at its end is the revision"
    trained.shifted("marc").publish_alone(store, "marc")
    assert sorted(named(store, trained.id, revision.decode()) or ()) == sorted(trained.data.log.item_ids)
    position = records.append_change(store, trained.id)
    roll_back(store, "marc")
    assert sorted(named(store, trained.id, position) or ()) == sorted(trained.data.log.item_ids)


def test_an_idle_refresh_names_nothing(store: Store, trained: Release) -> None:
    trained.publish(store)
    length = store.redis.xlen(store.keys.changes)
    trained.publish(store)
    assert store.redis.xlen(store.keys.changes) == length
    assert store.redis.get(store.keys.release_revision(trained.id)) is None


def test_a_renewed_expiry_is_a_change_also_of_a_producer_that_is_held_back(store: Store, trained: Release) -> None:
    trained.publish(store)
    trained.shifted("marc").publish_alone(store, "marc")
    roll_back(store, "marc")
    position = records.append_change(store, trained.id)
    longer = trained.data.config.model_copy(
        update={"knowledge": trained.data.config.knowledge.model_copy(update={"ttl_days": 365})}
    )
    trained.with_data(config=longer).publish(store)
    assert sorted(named(store, trained.id, position) or ()) == sorted(trained.data.log.item_ids)


def test_when_much_has_changed_there_is_a_new_snapshot(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.publish(store)
    before = published(store, trained.id)
    monkeypatch.setattr(records, "LONGEST_CHANGE", 30)
    trained.shifted("marc").publish(store)
    after = published(store, trained.id)
    different = {name for name in after.columns if after.columns[name] != before.columns[name]}
    assert "vectors" in different
    unchanged = {
        "index",
        "categorical",
        "numeric",
        "ids",
        "id_ends",
        "id_hashes",
        "id_rows",
        "event_hashes",
        "event_rows",
    }
    assert not different & unchanged, "columns that say the same lie there once"
    assert named(store, trained.id, before.changes) is None
    assert named(store, trained.id, after.changes) == []
    assert store.redis.get(store.keys.release_revision(trained.id)) is not None


def test_new_items_beyond_the_spare_rows_make_a_new_snapshot(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = published(store, trained.id)
    few = [Interaction(user_id="u1", item_id=f"new {at}", value=5, time_ms=10**10 + at) for at in range(65)]
    grown_by(trained, *few[:3]).with_gate(min_item_coverage=0.1).publish(store)
    assert published(store, trained.id) == before
    grown_by(trained, *few).with_gate(min_item_coverage=0.1).publish(store)
    assert published(store, trained.id).items == 40 + 65


def test_a_release_of_an_earlier_version_gets_a_snapshot(store: Store, trained: Release) -> None:
    trained.publish(store)
    manifest = release.read_manifest(store, trained.id)
    release.write_manifest(store, manifest.model_copy(update={"snapshot": None, "parts": {}}))
    assert not trained.publish(store).switched
    files = release.read_manifest(store, trained.id)
    assert files.parts == trained.report.parts
    assert files.snapshot is not None
    assert dict(files.snapshot.columns) == dict(manifest.snapshot.columns if manifest.snapshot else {})
    assert store.redis.get(store.keys.release_revision(trained.id)) is not None


@pytest.mark.parametrize("damage", [None, b"", b"half of it"])
def test_a_damaged_file_is_written_again(store: Store, trained: Release, damage: bytes | None) -> None:
    trained.publish(store)
    path = store.artifacts / file_of(published(store, trained.id).columns["vectors"])
    content = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    trained.publish(store)
    assert path.read_bytes() == content


def test_files_that_no_release_names_go_after_a_while(store: Store, trained: Release) -> None:
    trained.publish(store)
    trained.next("second").publish(store)
    manifests = [release.read_manifest(store, name) for name in release.releases(store)]
    named_files = {
        file_of(digest) for manifest in manifests if manifest.snapshot for digest in manifest.snapshot.columns.values()
    }
    other = store.artifacts / file_of("0" * 32)
    partial = other.with_suffix(".0123.partial")
    long_ago = (time.time() - 7200,) * 2
    for path in (other, partial):
        path.write_bytes(b"")
        os.utime(path, long_ago)
    snapshot.prune(store)
    assert other.exists(), "written long ago, but nobody has missed its name before"
    assert partial.exists()
    for path in store.artifacts.glob("column-*"):
        os.utime(path, long_ago)
    other.touch()
    snapshot.prune(store)
    assert other.exists(), "a publication is about to name it"
    assert not partial.exists()
    os.utime(other, long_ago)
    snapshot.prune(store)
    assert {path.name for path in store.artifacts.glob("column-*")} == named_files


def test_a_model_that_was_exported_again_has_its_columns_written_again(store: Store, trained: Release) -> None:
    trained.publish(store)
    whole = replace(trained, report=replace(trained.report, parts={}))
    whole.publish(store)
    assert not model_columns(dict.fromkeys(published(store, trained.id).columns, np.zeros(0)))
    trained.publish(store)
    assert model_columns(dict.fromkeys(published(store, trained.id).columns, np.zeros(0)))
