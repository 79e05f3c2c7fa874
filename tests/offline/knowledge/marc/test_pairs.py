"""Pairs see no version that closed later, and none of another user."""

from __future__ import annotations

import numpy as np

from offline.data.log import InteractionLog
from offline.knowledge.marc.pairs import so_far, training_pairs, visible_version


def by_hand(user: int, row: int, start: list[int], closed_at: list[int]) -> int:
    mine = [at for at in range(start[user], start[user + 1]) if closed_at[at] < row]
    return mine[-1] if mine else -1


def log_of(user: list[int], item: list[int], value: list[float], sampled: int) -> InteractionLog:
    """A log of two users and three items whose row ``sampled`` was drawn, not done."""
    rows = len(user)
    columns = (np.array(user, np.int32), np.array(item, np.int32), np.array(value, np.float32), np.arange(rows))
    return InteractionLog(("u0", "u1"), ("i0", "i1", "i2"), *columns, np.arange(rows) == sampled)


def test_the_newest_version_that_closed_before_is_taken() -> None:
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 5, size=12)
    start = np.concatenate([[0], np.cumsum(counts)])
    closed_at = np.concatenate([np.sort(draw.choice(200, count, replace=False)) for count in counts]).astype(np.int64)
    user, row = draw.integers(12, size=500), draw.integers(220, size=500)
    visible = visible_version(user, row, start, closed_at)
    expected = [by_hand(int(u), int(r), start.tolist(), closed_at.tolist()) for u, r in zip(user, row, strict=True)]
    assert visible.tolist() == expected
    assert -1 in expected


def test_the_closing_interaction_itself_does_not_see_its_version() -> None:
    visible = visible_version(np.array([0, 0]), np.array([5, 6]), np.array([0, 1]), np.array([5]))
    assert visible.tolist() == [-1, 0]


def test_no_version_at_all_is_no_pair() -> None:
    nothing = np.zeros(0, np.int64)
    assert visible_version(np.array([0]), np.array([3]), np.array([0, 0]), nothing).tolist() == [-1]


def test_pairs_hold_rows_before_the_end_with_both_sides_known() -> None:
    log = log_of([0, 0, 1, 0, 0, 0, 0], [0, 1, 0, 2, 1, 1, 0], [5, 1, 5, 5, 1, 5, 5], sampled=5)
    pairs = training_pairs(log, 6, 3.0, np.array([0, 1, 1]), np.array([1]), np.array([True, True, False]))
    # row 3 has an unknown item, row 5 was drawn, row 6 lies past the end, user 1 has no version
    assert pairs.row.tolist() == [4]
    assert pairs.version.tolist() == [0]
    assert pairs.item.tolist() == [1]
    assert pairs.liked.tolist() == [0.0]


def test_the_last_share_is_the_latest() -> None:
    log = log_of([0] * 20, [0] * 20, [5.0] * 20, sampled=-1)
    pairs = training_pairs(log, 20, 3.0, np.array([0, 1, 1]), np.array([-1]), np.ones(3, bool))
    earlier, later = pairs.parted(0.1)
    assert earlier.row.tolist() == list(range(18))
    assert later.row.tolist() == [18, 19]


def test_a_user_so_far_is_the_mean_of_what_closed_and_later_ones_change_nothing() -> None:
    states = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    means = so_far(states, np.array([0, 3, 3, 7]))
    np.testing.assert_allclose(means[2], states[:3].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(means[3], states[3])
    np.testing.assert_allclose(means[5], states[3:6].mean(0), rtol=1e-6)
    grown = so_far(np.insert(states, 3, 9.0, axis=0), np.array([0, 4, 4, 8]))  # the first user has one more
    np.testing.assert_array_equal(np.delete(grown, 3, axis=0), means)
