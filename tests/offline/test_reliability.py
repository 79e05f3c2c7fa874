"""Calibration against plain computations and hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from offline.metrics import expected_calibration_error, reliability


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
    bins = reliability(label, score, bins=10)
    assert sum(bins.count) == 1001
    assert max(bins.count) - min(bins.count) <= 1
    parts = np.split(np.argsort(score), np.cumsum(bins.count)[:-1])
    assert bins.centres == pytest.approx([score[part].mean() for part in parts])
    assert bins.observed == pytest.approx([label[part].mean() for part in parts])
    plain = sum(len(part) * abs(score[part].mean() - label[part].mean()) for part in parts) / 1001
    assert expected_calibration_error(label, score, bins=10) == pytest.approx(plain)


def test_equal_scores_share_a_bin() -> None:
    bins = reliability(np.array([0, 1, 1, 0, 1, 0]), np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.9]), bins=3)
    assert bins.count == (5, 1)
    assert bins.observed == pytest.approx((0.6, 0.0))
    assert bins.centres == pytest.approx((0.5, 0.9))
    assert reliability(np.array([0, 1]), np.array([0.5, 0.5])).count == (2,)


def test_the_order_of_the_samples_says_nothing() -> None:
    generator = np.random.default_rng(2)
    label, score = generator.integers(0, 2, 60), generator.integers(0, 9, 60) / 10
    order = generator.permutation(60)
    assert expected_calibration_error(label[order], score[order]) == pytest.approx(
        expected_calibration_error(label, score)
    )
    assert reliability(label[order], score[order]).count == reliability(label, score).count
