"""What is popular now: counted in a window before the newest interaction, published, and kept current."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract.artifact import ItemPopularity
from models.contract.events import item_hash
from models.contract.popularity import read_likes
from offline.config import RetrievalConfig
from offline.data.log import InteractionLog
from offline.publish import release, snapshot
from offline.publish.connection import Store
from offline.publish.popularity import recent_likes
from tests.offline.publish.conftest import Release, content_of

DAY_MS = 86_400_000


def with_days(trained: Release, days: float | None) -> Release:
    retrieval = RetrievalConfig(popularity_days=days)
    return trained.with_data(config=trained.data.config.model_copy(update={"retrieval": retrieval}))


def popularity_of(store: Store) -> ItemPopularity | None:
    live = release.live_release(store)
    assert live is not None
    return release.read_manifest(store, live).popularity


def test_likes_within_the_window_count() -> None:
    rows = [("u", "a", 5.0, 0), ("u", "b", 5.0, 3 * DAY_MS), ("v", "b", 5.0, 4 * DAY_MS), ("v", "a", 1.0, 4 * DAY_MS)]
    log = InteractionLog.sorted_by_time(rows, [], ["a", "b", "c"])
    assert recent_likes(log, 3.0, 2.0).tolist() == [0.0, 2.0, 0.0]
    assert recent_likes(log, 3.0, 1.0).tolist() == [0.0, 1.0, 0.0]
    assert recent_likes(log, 3.0, 30.0).tolist() == [1.0, 2.0, 0.0]
    assert recent_likes(InteractionLog.empty(), 3.0, 1.0).tolist() == []
    drawn = log.with_sampled(np.array([2]), np.array([2], np.int32))
    assert recent_likes(drawn, -1.0, 2.0).tolist() == [1.0, 2.0, 0.0]  # a drawn row is nobody's like


def test_without_a_window_there_is_no_file(store: Store, trained: Release) -> None:
    trained.publish(store)
    assert popularity_of(store) is None
    assert list(store.artifacts.glob("popularity-*")) == []
    live = release.read_manifest(store, trained.id)
    assert "popularity" not in live.to_json()  # which earlier services would refuse


def test_a_release_carries_the_likes_of_its_window(store: Store, trained: Release) -> None:
    days = 0.5  # of a log of about a day
    with_days(trained, days).publish(store)
    described = popularity_of(store)
    assert described is not None
    assert described.days == days
    log, schema = trained.data.log, trained.data.config.feature_schema
    likes = recent_likes(log, schema.liked_above, days)
    stored = {int(row["item"]): float(row["likes"]) for row in read_likes(store.artifacts, described)}
    assert stored == {item_hash(log.item_ids[at]): float(likes[at]) for at in np.flatnonzero(likes)}
    assert described.items == len(stored)


def test_new_likes_and_another_window_reach_the_live_release(store: Store, trained: Release) -> None:
    configured = with_days(trained, 0.5)
    configured.publish(store)
    before, content = popularity_of(store), content_of(store)
    configured.publish(store)
    assert content_of(store) == content
    log = trained.data.log
    revision = store.redis.get(store.keys.release_revision(trained.id))
    later, _ = log.with_rows([(log.user_ids[0], log.item_ids[0], 5.0, int(log.time_ms.max()) + 1)], [], [])
    grown = configured.with_data(log=later)
    grown.publish(store)
    after = popularity_of(store)
    assert after is not None
    assert after != before
    assert store.redis.get(store.keys.release_revision(trained.id)) != revision
    with_days(grown, 20.0).publish(store)
    wider = popularity_of(store)
    assert wider is not None
    assert wider.days == 20.0
    with_days(grown, None).publish(store)
    assert popularity_of(store) is None


def test_files_that_no_release_names_are_pruned(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_UNNAMED_SECONDS", -1.0)
    with_days(trained, 0.5).publish(store)
    with_days(trained, 0.25).publish(store)
    assert len(list(store.artifacts.glob("popularity-*.npy"))) == 2
    snapshot.prune(store)  # marks what nothing names
    snapshot.prune(store)
    described = popularity_of(store)
    assert described is not None
    assert [path.name for path in store.artifacts.glob("popularity-*.npy")] == [described.file]
