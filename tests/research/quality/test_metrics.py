"""Calibration, NDCG and GAUC against plain implementations, scikit-learn and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from offline.training.metrics import quality
from research.quality.metrics import expected_calibration_error, log_losses, ndcg_at, reliability, user_auc

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """(label, score, user) of a few users, with many equal scores, and with both labels somewhere."""
    count = draw(st.integers(2, 60))
    label = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count).filter(lambda found: len(set(found)) == 2))
    score = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    user = draw(st.lists(st.sampled_from([3, 4, 90]), min_size=count, max_size=count))
    return np.array(label, np.float32), np.array(score, np.float32) / 10, np.array(user)


def test_a_calibrated_score_has_hardly_any_error() -> None:
    generator = np.random.default_rng(0)
    score = generator.random(200_000)
    label = (generator.random(200_000) < score).astype(np.float32)
    assert expected_calibration_error(label, score) < 0.005
    assert 0.1 < expected_calibration_error(label, score**2) < 0.2  # E |u - u^2| = 1 / 6


def test_a_score_that_is_always_too_sure() -> None:
    assert expected_calibration_error(np.array([1, 0, 1, 0]), np.full(4, 0.9)) == pytest.approx(0.4)


def test_distances_do_not_cancel_between_bins() -> None:
    label, score = np.array([1, 1, 0, 0]), np.array([0.6, 0.6, 0.4, 0.4])
    assert score.mean() == label.mean()
    assert expected_calibration_error(label, score, bins=2) == pytest.approx(0.4)


def test_bins_are_of_equal_mass() -> None:
    generator = np.random.default_rng(1)
    score, label = generator.random(1001) ** 3, generator.integers(0, 2, 1001)
    found = reliability(label, score, bins=10)
    assert sum(found.count) == 1001
    assert max(found.count) - min(found.count) <= 1
    parts = np.split(np.argsort(score), np.cumsum(found.count)[:-1])
    assert found.centres == pytest.approx([score[part].mean() for part in parts])
    assert found.observed == pytest.approx([label[part].mean() for part in parts])
    plain = sum(len(part) * abs(score[part].mean() - label[part].mean()) for part in parts) / 1001
    assert expected_calibration_error(label, score, bins=10) == pytest.approx(plain)


def test_equal_scores_share_a_bin() -> None:
    found = reliability(np.array([0, 1, 1, 0, 1, 0]), np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.9]), bins=3)
    assert found.count == (5, 1)
    assert found.observed == pytest.approx((0.6, 0.0))
    assert found.centres == pytest.approx((0.5, 0.9))
    assert reliability(np.array([0, 1]), np.array([0.5, 0.5])).count == (2,)


def test_ndcg_by_hand() -> None:
    # Best to worst: liked, not, liked. At 2 the second liked one is too far down: 1 of 1 + 1 / log2(3).
    label, score, user = np.array([0, 1, 1]), np.array([0.5, 0.9, 0.1]), np.zeros(3)
    assert ndcg_at(label, score, user, k=2) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ndcg_at(label, score, user, k=3) == pytest.approx((1 + 0.5) / (1 + 1 / math.log2(3)))
    assert ndcg_at(label, score, user, k=1) == 1.0


def test_equal_scores_get_the_mean_over_their_orders() -> None:
    # One liked sample among three of one score, of which two are seen: places 1 and 2 as likely as 3.
    label, score, user = np.array([1, 0, 0]), np.full(3, 0.5), np.zeros(3)
    assert ndcg_at(label, score, user, k=2) == pytest.approx((1 + 1 / math.log2(3) + 0) / 3)


def test_users_of_one_label_count_for_nothing() -> None:
    label, score, user = np.array([1, 0, 1, 1, 0]), np.array([0.9, 0.1, 0.3, 0.2, 0.5]), np.array([0, 0, 1, 1, 2])
    assert ndcg_at(label, score, user) == 1.0
    assert user_auc(label, score, user) == 1.0
    assert math.isnan(ndcg_at(label[2:], score[2:], user[2:]))
    assert math.isnan(user_auc(label[2:], score[2:], user[2:]))


@settings(deadline=None)
@given(rows(), st.integers(1, 12))
def test_ndcg_is_scikit_learns(given_rows: Rows, k: int) -> None:
    label, score, user = given_rows
    each = [
        ndcg_score([label[user == one]], [score[user == one]], k=k)
        for one in np.unique(user)
        if len(set(label[user == one])) == 2
    ]
    found = ndcg_at(label, score, user, k)
    assert found == pytest.approx(np.mean(each)) if each else math.isnan(found)


@settings(deadline=None)
@given(rows())
def test_gauc_and_logloss_are_those_of_training(given_rows: Rows) -> None:
    label, score, user = given_rows
    expected = quality(label, score, user)
    assert user_auc(label, score, user) == pytest.approx(expected.gauc, nan_ok=True)
    assert log_losses(label, score).mean() == pytest.approx(expected.logloss)


@settings(deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_says_nothing(given_rows: Rows, random: object) -> None:
    label, score, user = given_rows
    order = np.array(random.sample(range(len(label)), len(label)))  # type: ignore[attr-defined]
    for metric in (ndcg_at, user_auc):
        shuffled = metric(label[order], score[order], user[order])
        assert shuffled == pytest.approx(metric(label, score, user), nan_ok=True)
    assert expected_calibration_error(label[order], score[order]) == pytest.approx(
        expected_calibration_error(label, score)
    )
    assert reliability(label[order], score[order]).count == reliability(label, score).count
