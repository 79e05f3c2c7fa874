"""Matching quality: the ranking and the measures, each against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray, IntArray
from offline.data.catalogue import DataError
from offline.data.files import write_arrays
from research.autograph.leave_one_out import LeaveOneOut, leave_one_out
from research.autograph.matching import (
    TOP_ITEMS,
    Lists,
    matching_quality,
    mean_quality,
    paired_difference,
    rank_items,
)


@pytest.fixture(scope="module")
def split() -> LeaveOneOut:
    """User 4 likes 10, 11, .., 16; user 9 likes 11 and 12 only; user 7 likes nothing."""
    user = np.array([4, 9, 4, 7, 4, 4, 9, 4, 4, 4, 4])
    item = np.array([10, 11, 11, 10, 12, 30, 12, 13, 14, 15, 16])
    liked = np.array([True, True, True, False, True, False, True, True, True, True, True])
    return leave_one_out(user, item, liked)


def test_training_items_are_never_offered_nor_validation_items_at_the_test(split: LeaveOneOut) -> None:
    def scores(positions: IntArray) -> FloatArray:
        return np.tile(np.arange(7, dtype=np.float32), (len(positions), 1))

    assert rank_items(split, scores, "validation")[0, :2].tolist() == [6, 5]
    assert rank_items(split, scores, "test")[0, :1].tolist() == [6]
    assert rank_items(split, lambda positions: scores(positions) * 0, "validation")[0, :2].tolist() == [5, 6], (
        "ties: lower first"
    )


def test_measures_by_hand() -> None:
    ranked = np.array([[5, 6, 7], [5, 6, 7], [5, 6, 7], [5, 6, 7]])
    quality = matching_quality(ranked, np.array([5, 6, 7, 8]))
    assert quality.recall == 0.75
    np.testing.assert_allclose(quality.gain, [1.0, 1 / np.log2(3), 0.5, 0.0])
    assert quality.ndcg == pytest.approx((1.5 + 1 / np.log2(3)) / 4)
    with pytest.raises(ValueError, match="twice"):
        matching_quality(np.array([[5, 5]]), np.array([5]))


def test_a_difference_comes_with_its_interval() -> None:
    generator = np.random.default_rng(0)
    ranked = np.stack([generator.permutation(100)[:TOP_ITEMS] for _ in range(400)])
    left_out = ranked[:, 0].copy()
    left_out[200:] = 99
    good, bad = matching_quality(ranked, left_out), matching_quality(ranked[:, ::-1], left_out)
    difference = paired_difference(good, bad)
    assert difference["recall"][0] == 0.0
    low, high = difference["ndcg"][1:]
    assert 0 < low < difference["ndcg"][0] < high


def test_several_trainings_are_averaged_user_by_user() -> None:
    left_out = np.array([5, 6])
    both, first = (
        matching_quality(np.array([[5, 6], [6, 5]]), left_out),
        matching_quality(np.array([[5, 6], [7, 5]]), left_out),
    )
    mean = mean_quality([both, first])
    assert (mean.recall, mean.ndcg) == (0.75, 0.75)
    assert mean.hit.tolist() == [1.0, 0.5]
    assert paired_difference(both, mean)["recall"][0] == 0.25


def test_lists_read_back(tmp_path: Path) -> None:
    lists = Lists(np.arange(4).reshape(2, 2), np.arange(4, 8).reshape(2, 2))
    lists.save(tmp_path / "lists.npz")
    assert np.array_equal(Lists.load(tmp_path / "lists.npz").test, lists.test)
    write_arrays(tmp_path / "other.npz", test=np.zeros(1))
    with pytest.raises(DataError, match="lacks validation"):
        Lists.load(tmp_path / "other.npz")
