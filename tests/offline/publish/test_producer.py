"""One producer alone: published, rolled back, held, returned; and killed anywhere in the middle of it."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from models.contract.artifact import ArtifactError
from models.contract.knowledge import KnowledgeRecord
from models.contract.packing import KNOWLEDGE
from offline.knowledge.vectors import Produced
from offline.publish import records, release
from offline.publish.connection import Store
from offline.publish.gate import GateError
from offline.publish.knowledge import GRACE_SECONDS, restamped, times
from offline.publish.producer import let_go, rolled_back, spaces_of
from offline.publish.release import SwitchError
from tests.offline.publish.conftest import (
    Release,
    bytes_written,
    commands_of,
    content_of,
    keys_of,
    killed_at,
    knowledge_in,
    of_other_components,
    roll_back,
    sibling,
)

DAY = 86_400


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of users and items, so that there is a between."""
    monkeypatch.setattr(records, "_CHUNK", 16)


def revision(store: Store) -> bytes | None:
    """The revision that tells the services to read the items of the live release again."""
    live = release.live_release(store)
    assert live is not None
    position: Any = store.redis.get(store.keys.release_revision(live))
    return None if position is None else bytes(position)


def test_a_producer_publishes_its_changes_and_nothing_else(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = content_of(store)
    changed = trained.shifted("liber").shifted("marc")
    published = changed.publish_alone(store, "marc")
    assert {name: (count.written, count.unchanged) for name, count in published.records.items()} == {
        "user/marc": (60, 0), "item/marc": (40, 0),
    }  # fmt: skip
    assert (published.release, published.switched, published.held_back) == (trained.id, False, [])
    spaces = spaces_of(trained.data.knowledge.produced["marc"].spaces).values()
    after = content_of(store)
    differing = {key for key in after if after[key] != before.get(key)}
    written = {key for key in differing if key.rpartition(":")[2] in spaces}
    assert bytes_written(published) == sum(len(after[key]) for key in written)
    assert len(written) == 100
    assert differing - written == {store.keys.generation, store.keys.release_revision(trained.id)}
    position = revision(store)
    assert position is not None
    assert bytes_written(changed.publish_alone(store, "marc")) == 0
    assert revision(store) == position


def test_users_knowledge_needs_no_new_item_table(store: Store, trained: Release) -> None:
    trained.publish(store)
    trained.shifted("liber").publish_alone(store, "liber")
    assert revision(store) is None
    trained.shifted("text").publish_alone(store, "text")
    assert revision(store) is not None


def test_a_new_space_needs_a_new_model(store: Store, trained: Release) -> None:
    with pytest.raises(GateError, match="the live release None reads"):
        trained.publish_alone(store, "marc")
    trained.publish(store)
    before = content_of(store)
    items = trained.data.knowledge.items["marc"]
    other = of_other_components(items.space)
    half = Produced(items=items)
    for produced in (trained.with_items("marc", space=other), trained.with_producer("marc", half)):
        with pytest.raises(GateError, match="a new space needs a new model, run `refresh`"):
            produced.publish_alone(store, "marc")
    with pytest.raises(GateError, match=r"'marc' holds spaces \{\}"):
        trained.with_producer("marc", Produced()).publish_alone(store, "marc")
    assert content_of(store) == before
    release.delete(store, trained.id, 1)
    with pytest.raises(GateError, match=r"reads \{\} of it"):
        trained.publish_alone(store, "marc")


def test_a_rollback_takes_back_the_last_publication_and_then_the_one_before(store: Store, trained: Release) -> None:
    trained.publish(store)
    states = [knowledge_in(store, "liber", "marc", "text")]
    trained.shifted("marc", 1).publish_alone(store, "marc")
    states.append(knowledge_in(store, "liber", "marc", "text"))
    trained.shifted("marc", 2).shifted("liber").publish(store)
    position = revision(store)
    undone = roll_back(store, "marc")
    assert (undone.release, undone.restored, undone.removed, undone.left) == (trained.id, 100, 0, 0)
    assert undone.spaces == ("user/marc", "item/marc")
    assert undone.size > 0
    assert knowledge_in(store, "marc") == {key: states[1][key] for key in knowledge_in(store, "marc")}
    assert knowledge_in(store, "liber") != {key: states[0][key] for key in knowledge_in(store, "liber")}
    assert revision(store) not in (None, position)
    position = revision(store)
    roll_back(store, "marc")
    assert revision(store) != position
    position = revision(store)
    roll_back(store, "liber")
    assert revision(store) == position  # users' knowledge is read at every request
    assert knowledge_in(store, "liber", "marc", "text") == states[0]
    with pytest.raises(SwitchError, match="no publication of 'marc' to take back"):
        roll_back(store, "marc")


def test_what_was_new_is_removed_and_what_somebody_changed_since_is_left(store: Store, trained: Release) -> None:
    users = trained.data.knowledge.users["liber"]
    fewer = trained.with_users("liber", vectors=users.vectors[: users.start[50]], start=users.start[:51])
    fewer.publish(store)
    before = knowledge_in(store, "liber")
    trained.shifted("liber").publish(store)
    foreign = KnowledgeRecord("u3", users.space.fingerprint, np.ones((1, 6), np.float32), 0, 2**40).pack()
    store.redis.set(store.keys.user_knowledge("u3", users.space.fingerprint), foreign)
    store.redis.delete(store.keys.user_knowledge("u4", users.space.fingerprint))
    undone = roll_back(store, "liber")
    assert (undone.restored, undone.removed, undone.left) == (48, 10, 2)
    after = knowledge_in(store, "liber")
    assert after.pop(store.keys.user_knowledge("u3", users.space.fingerprint)) == KNOWLEDGE.content(foreign)
    for name in ("u3", "u4"):
        before.pop(store.keys.user_knowledge(name, users.space.fingerprint))
    assert after == before


def test_the_first_fill_of_a_space_is_not_taken_back_alone(store: Store, trained: Release) -> None:
    with pytest.raises(SwitchError, match="nothing is live yet"):
        roll_back(store, "marc")
    trained.publish(store)
    before = content_of(store)
    with pytest.raises(SwitchError, match="to leave the spaces themselves, roll back the release"):
        roll_back(store, "marc")
    with pytest.raises(SwitchError, match="reads no knowledge of 'nobody'"):
        roll_back(store, "nobody")
    assert content_of(store) == before


def test_a_record_whose_expiry_was_renewed_still_counts_as_written_then(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = knowledge_in(store, "liber")
    changed = trained.shifted("liber")
    changed.publish(store)
    age(store, "liber", 1.5)
    assert changed.publish(store, verify=True).records["user/liber"].written == 60
    assert roll_back(store, "liber").restored == 60
    assert knowledge_in(store, "liber") == before


def age(store: Store, name: str, days: float) -> None:
    """Let the records of a producer be written ``days`` earlier."""
    for key in knowledge_in(store, name):
        blob: Any = store.redis.get(key)
        written_at, expires_at = times(blob)
        shift = round(days * DAY)
        store.redis.set(key, restamped(blob, written_at - shift, expires_at - shift))


def test_what_comes_back_has_a_life_before_it(store: Store, trained: Release) -> None:
    trained.publish(store)
    age(store, "liber", 1.5)  # of 2 days
    trained.shifted("liber").publish(store, verify=True)
    roll_back(store, "liber")
    trained.shifted("marc").publish(store)
    roll_back(store, "marc")
    now = time.time()
    for key in knowledge_in(store, "liber", "marc"):
        blob: Any = store.redis.get(key)
        written_at, expires_at = times(blob)
        assert expires_at - written_at == 2 * DAY
        assert expires_at > now + 1.9 * DAY
        assert store.redis.expiretime(key) == expires_at + GRACE_SECONDS


def test_a_producer_that_was_rolled_back_stays_so_until_its_return(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = knowledge_in(store, "marc")
    changed = trained.shifted("marc").shifted("liber")
    changed.publish(store)
    roll_back(store, "marc")
    state = content_of(store)
    refreshed, alone = changed.publish(store), changed.publish_alone(store, "marc")
    for published in (refreshed, alone):
        assert published.held_back == ["user/marc", "item/marc"]
        counts = [(published.records[key].written, published.records[key].unchanged) for key in published.held_back]
        assert counts == [(0, 60), (0, 40)]
    assert bytes_written(refreshed) == 0
    assert {key: value for key, value in content_of(store).items() if key != store.keys.generation} == state
    assert knowledge_in(store, "marc") == before
    returned = changed.publish_alone(store, "marc", return_to=True)
    assert (returned.held_back, returned.records["item/marc"].written) == ([], 40)
    assert rolled_back(store) == []
    assert knowledge_in(store, "marc") != before
    assert roll_back(store, "marc").restored == 100  # what returned can be taken back again
    assert knowledge_in(store, "marc") == before


def test_a_publication_that_returns_returns_every_producer(store: Store, trained: Release) -> None:
    trained.publish(store)
    changed = trained.shifted("marc").shifted("liber")
    changed.publish(store)
    after = knowledge_in(store, "marc", "liber")
    roll_back(store, "marc")
    roll_back(store, "liber")
    assert [mark.partition(":")[0] for mark in rolled_back(store)] == ["user/marc", "item/marc", "user/liber"]
    published = changed.publish(store, return_to=True)
    assert (published.held_back, rolled_back(store)) == ([], [])
    assert knowledge_in(store, "marc", "liber") == after


def test_held_records_do_not_expire(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = knowledge_in(store, "marc")
    trained.shifted("marc").publish(store)
    roll_back(store, "marc")
    age(store, "marc", 1.5)
    published = trained.shifted("marc").publish(store)
    assert [published.records[key].written for key in published.held_back] == [60, 40]
    assert knowledge_in(store, "marc") == before
    for key in knowledge_in(store, "marc"):
        blob: Any = store.redis.get(key)
        assert times(blob)[1] > time.time() + 1.9 * DAY


def test_a_hold_is_of_spaces_and_a_new_model_of_a_new_space_is_published(store: Store, trained: Release) -> None:
    trained.publish(store)
    trained.shifted("marc").publish(store)
    roll_back(store, "marc")
    second = trained.shifted("marc", 3).respaced("marc")
    published = second.publish(store)
    assert (published.switched, published.held_back) == (True, [])
    assert [published.records[key].written for key in ("user/marc", "item/marc")] == [60, 40]
    assert len(rolled_back(store)) == 2
    with pytest.raises(SwitchError, match="no publication of 'marc' to take back"):
        roll_back(store, "marc")
    before = knowledge_in(store, "marc")
    second.shifted("marc").publish(store)
    assert roll_back(store, "marc").restored == 100
    assert knowledge_in(store, "marc") == before
    release.rollback(store)
    assert trained.publish_alone(store, "marc").held_back == ["user/marc", "item/marc"]


def test_a_new_model_of_the_held_space_goes_live_with_what_is_held(store: Store, trained: Release) -> None:
    trained.publish(store)
    before = knowledge_in(store, "marc")
    trained.shifted("marc").publish(store)
    roll_back(store, "marc")
    published = trained.shifted("marc").next("second").publish(store)
    assert (published.switched, published.held_back) == (True, ["user/marc", "item/marc"])
    assert knowledge_in(store, "marc") == before


def test_a_damaged_record_is_not_brought_back(store: Store, trained: Release) -> None:
    trained.publish(store)
    key = next(key for key in sorted(knowledge_in(store, "liber")))
    store.redis.set(key, b"damaged")
    trained.shifted("liber").publish(store, verify=True)
    undone = roll_back(store, "liber")
    assert (undone.restored, undone.removed) == (59, 1)
    assert key not in content_of(store)


def test_a_rollback_needs_a_live_release_that_is_understood(store: Store, trained: Release) -> None:
    trained.publish(store)
    trained.shifted("marc").publish(store)
    store.redis.set(store.keys.release_manifest(trained.id), b"{}")
    with pytest.raises(SwitchError, match="reads no knowledge"):
        roll_back(store, "marc")
    with pytest.raises(ArtifactError):
        trained.publish(store)


def test_letting_go_of_what_is_not_held_changes_nothing(store: Store) -> None:
    let_go(store, {"user/liber": "0123456789abcdef"})
    assert keys_of(store.redis, f"{store.keys.prefix}:*") == set()
    store.redis.set(store.keys.rolled_back, json.dumps(["user/liber:0123456789abcdef", "user/marc:0123456789abcdef"]))
    let_go(store, {"user/liber": "0123456789abcdef"})
    assert rolled_back(store) == ["user/marc:0123456789abcdef"]


@pytest.mark.usefixtures("small_chunks")
def test_a_publication_killed_anywhere_is_completed_or_taken_back(store: Store, trained: Release) -> None:
    changed = trained.shifted("marc")
    trained.publish(store)
    before = said(store)
    points = commands_of(lambda: changed.publish_alone(store, "marc"))
    after = said(store)
    assert points > 15
    for point in range(0, points, 3):  # of even and odd ones, which die after and before a command
        for completed in (True, False):
            beside = sibling(store, f"{point}-{completed}")
            trained.publish(beside)
            with killed_at(point), pytest.raises(KeyboardInterrupt):
                changed.publish_alone(beside, "marc")
            if completed:
                changed.publish_alone(beside, "marc")
                assert said(beside) == after, point
                assert revision(beside) is not None
            try:
                roll_back(beside, "marc")
            except SwitchError:  # it was killed before it had changed anything
                assert not completed
            assert said(beside) == before, point
            assert beside.redis.get(beside.keys.release_pending(trained.id)) is None or not completed


@pytest.mark.usefixtures("small_chunks")
def test_a_rollback_killed_anywhere_is_completed_by_the_next(
    store: Store, trained: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offline.publish.undo._PAGE", 16)
    first, second = trained.shifted("marc", 1), trained.shifted("marc", 2)

    def prepare(beside: Store) -> dict[str, bytes]:
        trained.publish(beside)
        first.publish_alone(beside, "marc")
        expected = said(beside)
        second.publish_alone(beside, "marc")
        return expected

    expected = prepare(store)
    points = commands_of(lambda: roll_back(store, "marc"))
    assert points > 15
    for point in range(0, points, 3):
        beside = sibling(store, f"rollback-{point}")
        prepare(beside)
        raised = revision(beside)
        with killed_at(point), pytest.raises(KeyboardInterrupt):
            roll_back(beside, "marc")
        if rolled_back(beside):
            assert second.publish(beside).held_back  # a refresh in between does not write what is being taken back
        undone = roll_back(beside, "marc")
        assert undone.restored == 100
        assert said(beside) == expected, point
        assert revision(beside) not in (None, raised)
        assert beside.redis.get(beside.keys.release_pending(trained.id)) is None


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_rollback_is_given_up_when_the_producer_returns(store: Store, trained: Release) -> None:
    trained.publish(store)
    changed = trained.shifted("marc")
    changed.publish(store)
    after = said(store)
    with killed_at(12), pytest.raises(KeyboardInterrupt):
        roll_back(store, "marc")
    assert said(store) != after
    halfway = knowledge_in(store, "marc")
    changed.publish_alone(store, "marc", return_to=True)
    assert said(store) == after
    roll_back(store, "marc")
    assert knowledge_in(store, "marc") == halfway


def said(store: Store) -> dict[str, bytes]:
    """Contents of all knowledge records of a store."""
    records_by_key = knowledge_in(store, "liber", "marc", "text")
    return {key.removeprefix(store.keys.prefix): value for key, value in records_by_key.items()}
