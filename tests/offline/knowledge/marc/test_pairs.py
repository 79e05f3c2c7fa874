"""Pairs see no version that closed later, and none of another user."""

from __future__ import annotations

import numpy as np

from offline.knowledge.marc.pairs import pairs_before, so_far, visible_version


def by_hand(user: int, row: int, start: list[int], closed_at: list[int], known: list[bool]) -> int:
    mine = [at for at in range(start[user], start[user + 1]) if known[at] and closed_at[at] < row]
    return mine[-1] if mine else -1


def test_the_newest_version_that_closed_before_is_taken() -> None:
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 5, size=12)
    start = np.concatenate([[0], np.cumsum(counts)])
    closed_at = np.concatenate([np.sort(draw.choice(200, count, replace=False)) for count in counts]).astype(np.int64)
    known = draw.random(len(closed_at)) < 0.7
    user, row = draw.integers(12, size=500), draw.integers(220, size=500)
    made = visible_version(user, row, start, closed_at, known)
    expected = [
        by_hand(int(u), int(r), start.tolist(), closed_at.tolist(), known.tolist())
        for u, r in zip(user, row, strict=True)
    ]
    assert made.tolist() == expected
    assert -1 in expected


def test_the_closing_interaction_itself_does_not_see_its_version() -> None:
    made = visible_version(np.array([0, 0]), np.array([5, 6]), np.array([0, 1]), np.array([5]), np.array([True]))
    assert made.tolist() == [-1, 0]


def test_no_version_at_all_is_no_pair() -> None:
    nothing = np.zeros(0, np.int64)
    assert visible_version(np.array([0]), np.array([3]), np.array([0, 0]), nothing, np.zeros(0, bool)).tolist() == [-1]


def test_pairs_hold_rows_before_the_end_with_both_sides_known() -> None:
    user, item = np.array([0, 0, 1, 0, 0, 0], np.int32), np.array([0, 1, 0, 2, 1, 0], np.int32)
    liked = np.array([1, 0, 1, 1, 0, 1], bool)
    pairs = pairs_before(
        5, user, item, liked, np.array([0, 1, 1]), np.array([1]), np.array([True]), np.array([True, True, False])
    )
    assert pairs.row.tolist() == [4]  # row 3 has an unknown item, row 5 lies past the end, user 1 has no version
    assert pairs.version.tolist() == [0]
    assert pairs.item.tolist() == [1]
    assert pairs.liked.tolist() == [0.0]


def test_the_last_share_is_the_latest() -> None:
    user = item = np.zeros(20, np.int32)
    pairs = pairs_before(
        20, user, item, np.ones(20, bool), np.array([0, 1]), np.array([-1]), np.ones(1, bool), np.ones(1, bool)
    )
    earlier, later = pairs.parted(0.1)
    assert earlier.row.tolist() == list(range(18))
    assert later.row.tolist() == [18, 19]


def test_a_user_so_far_is_the_mean_of_what_closed_and_later_ones_change_nothing() -> None:
    states = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    made = so_far(states, np.array([0, 3, 3, 7]))
    np.testing.assert_allclose(made[2], states[:3].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(made[3], states[3])
    np.testing.assert_allclose(made[5], states[3:6].mean(0), rtol=1e-6)
    grown = so_far(np.insert(states, 3, 9.0, axis=0), np.array([0, 4, 4, 8]))  # the first user has one more
    np.testing.assert_array_equal(np.delete(grown, 3, axis=0), made)
