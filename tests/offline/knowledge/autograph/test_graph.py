"""Neighbourhoods against a plain reading of the log, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.data.catalogue import DataError
from offline.knowledge.autograph.graph import Evidence, Neighbours, Versions, boundaries, nearest_items, slice_of
from tests.offline.knowledge.autograph.small import ITEMS, USERS, world

WIDTH = 4


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return world()


def padded(neighbours: list[int]) -> list[int]:
    return (neighbours + [-1] * WIDTH)[:WIDTH]


def test_slices_begin_at_equal_steps_and_the_last_one_sees_the_whole_training_period() -> None:
    from_row = boundaries(1000, 4)
    assert from_row.tolist() == [0, 250, 500, 750, 1000]
    assert slice_of(np.array([0, 249, 250, 999, 1000, 5000]), from_row).tolist() == [0, 0, 1, 3, 4, 4]


def test_few_training_rows_make_fewer_slices() -> None:
    assert boundaries(3, 8).tolist() == [0, 1, 2, 3]


def test_recent_likes_are_the_newest_ones_before_the_row(evidence: Evidence) -> None:
    neighbours = Neighbours(evidence, WIDTH)
    generator = np.random.default_rng(1)
    user, row = generator.integers(USERS, size=200), generator.integers(len(evidence.user) + 50, size=200)
    for owner, before, likes in zip(user, row, neighbours.recent_likes(user, row), strict=True):
        rows = [
            at for at in range(min(before, len(evidence.user))) if evidence.user[at] == owner and evidence.liked[at]
        ]
        assert likes.tolist() == padded([int(evidence.item[at]) for at in reversed(rows)])


def test_recent_users_are_the_newest_likers_before_the_boundary(evidence: Evidence) -> None:
    for boundary in (0, 1, 500, len(evidence.user)):
        users, likes = Neighbours(evidence, WIDTH).recent_users(boundary)
        for item in range(ITEMS):
            rows = [at for at in range(boundary) if evidence.item[at] == item and evidence.liked[at]]
            assert users[item].tolist() == padded([int(evidence.user[at]) for at in reversed(rows)])
            assert likes[item] == len(rows)


def test_a_version_is_visible_only_after_the_row_that_closed_it(evidence: Evidence) -> None:
    versions, neighbours = evidence.versions, Neighbours(evidence, WIDTH)
    user = versions.user
    assert (
        np.where(versions.known, neighbours.visible_version(user, versions.closed_at + 1), -2).tolist()
        == np.where(versions.known, np.arange(len(versions)), -2).tolist()
    )
    at_closing = neighbours.visible_version(user, versions.closed_at)
    assert (at_closing < np.arange(len(versions))).all()
    assert (at_closing[versions.start[:-1]] == -1).all()


def test_a_version_without_text_is_passed_over(evidence: Evidence) -> None:
    versions = evidence.versions
    unknown = int(np.flatnonzero(~versions.known)[0])
    owner = versions.user[unknown : unknown + 1]
    assert versions.start[owner[0]] < unknown, "the user has an older version"
    seen = Neighbours(evidence, WIDTH).visible_version(owner, versions.closed_at[unknown : unknown + 1] + 1)
    assert seen.tolist() == [unknown - 1]


def test_members_of_a_user_factor_are_the_versions_that_closed_last(evidence: Evidence) -> None:
    versions, size = evidence.versions, 5
    codes = np.random.default_rng(2).integers(size, size=(len(versions), 3)).astype(np.uint16)
    members = Neighbours(evidence, WIDTH).recent_versions(codes, 3 * size, 700)
    for level in range(3):
        for code in range(size):
            mine = np.flatnonzero((codes[:, level] == code) & (versions.closed_at < 700) & versions.known)
            newest = mine[np.argsort(-versions.closed_at[mine])]
            assert members[level * size + code].tolist() == padded(newest.tolist())


def test_members_of_an_item_factor_are_the_items_nearest_to_the_code() -> None:
    codebooks = np.array([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]], np.float32)
    latent = np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [10.5, 0.0], [9.0, 0.0]], np.float32)
    codes = np.array([[0, 0], [0, 0], [0, 0], [1, 1], [1, 0]], np.uint16)
    known = np.array([True, True, False, True, True])
    members = nearest_items(codes, latent, codebooks, known, 2)
    assert members.tolist() == [[1, 0], [3, 4], [1, 4], [3, -1]]


def test_nothing_is_no_error() -> None:
    nobody = Versions(np.zeros((0, 4), np.float32), np.zeros(4, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    none = np.zeros(0, np.int64)
    empty = Evidence(np.zeros((2, 4), np.float32), np.ones(2, np.bool_), nobody, none, none, none.astype(np.bool_))
    neighbours = Neighbours(empty, WIDTH)
    three = np.arange(3)
    assert neighbours.visible_version(three, three).tolist() == [-1] * 3
    assert (neighbours.recent_likes(three, three) == -1).all()
    users, likes = neighbours.recent_users(0)
    assert (users == -1).all()
    assert likes.tolist() == [0, 0]
    assert (neighbours.recent_versions(np.zeros((0, 3), np.uint16), 6, 0) == -1).all()


def test_what_is_cut_away_leaves_users_and_items_in_place(evidence: Evidence) -> None:
    past = evidence.before(600)
    assert len(past.user) == 600
    assert (past.versions.closed_at < 600).all()
    assert len(past.versions.start) == len(evidence.versions.start)
    assert len(past.versions) == int((evidence.versions.closed_at < 600).sum())
    earlier = evidence.versions.closed_at < 600
    np.testing.assert_array_equal(past.versions.user, evidence.versions.user[earlier])


def test_arrays_that_do_not_belong_together_are_refused(evidence: Evidence) -> None:
    with pytest.raises(DataError, match="columns of the log"):
        replace(evidence, liked=evidence.liked[1:])
    with pytest.raises(DataError, match="known_items"):
        replace(evidence, known_items=evidence.known_items[1:])
    versions = evidence.versions
    with pytest.raises(DataError, match="belong together"):
        replace(versions, closed_at=versions.closed_at[1:])
    with pytest.raises(DataError, match="order of their closing"):
        replace(versions, closed_at=versions.closed_at[::-1])
