"""Ranking quality against hand-computed values, and intervals on planted cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offline.training.metrics import Quality, paired_interval, quality


def quality_of(rows: list[tuple[int, float, int]]) -> Quality:
    """Of (label, score, user) rows."""
    label, score, user = (np.array(column) for column in zip(*rows, strict=True))
    return quality(label.astype(np.float32), score.astype(np.float32), user)


def test_hand_computed_values() -> None:
    # User 0: the pairs 0.9 > 0.2 and 0.4 > 0.2 are right: AUC 1 over 3 samples. User 1: 0.1 < 0.6 is wrong: AUC 0 over
    # 2 samples. User 2 has one label only and counts for nothing in GAUC.
    found = quality_of([(1, 0.9, 0), (1, 0.4, 0), (0, 0.2, 0), (1, 0.1, 1), (0, 0.6, 1), (1, 0.5, 2)])
    # Positives 0.9, 0.4, 0.1, 0.5 against negatives 0.2, 0.6: right are 0.9 > both, 0.4 > 0.2, 0.5 > 0.2.
    assert found.auc == pytest.approx(4 / 8)
    assert found.gauc == pytest.approx((1.0 * 3 + 0.0 * 2) / 5)
    chances = [0.9, 0.4, 1 - 0.2, 0.1, 1 - 0.6, 0.5]
    assert found.logloss == pytest.approx(-sum(math.log(one) for one in chances) / 6, rel=1e-6)


def test_ties_count_half() -> None:
    assert quality_of([(1, 0.5, 0), (0, 0.5, 0)]).auc == 0.5


def test_certain_and_wrong_scores_have_a_finite_loss() -> None:
    found = quality_of([(1, 0.0, 0), (0, 1.0, 0)])
    assert found.auc == 0.0
    assert found.logloss == pytest.approx(-math.log(1e-7), rel=1e-3)


def test_users_of_one_label_leave_no_gauc() -> None:
    assert math.isnan(quality_of([(1, 0.5, 0), (0, 0.4, 1)]).gauc)


def test_one_label_only_is_refused() -> None:
    with pytest.raises((ValueError, UserWarning)):
        quality_of([(1, 0.5, 0), (1, 0.4, 1)])


USERS, PER_USER = 60, 20


def planted(generator: np.random.Generator, signal: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, score, user): a score that knows the label as well as ``signal`` says."""
    label = generator.integers(0, 2, USERS * PER_USER)
    return label, label * signal + generator.normal(size=len(label)), np.repeat(np.arange(USERS), PER_USER)


def test_a_planted_difference_is_found() -> None:
    generator = np.random.default_rng(0)
    label, weak, user = planted(generator, 0.5)
    strong = weak + 0.5 * label
    difference, low, high = paired_interval(label, strong, weak, user, resamples=200)
    assert 0 < low < difference < high
    back, back_low, back_high = paired_interval(label, weak, strong, user, resamples=200)
    assert (back, back_low, back_high) == pytest.approx((-difference, -high, -low))


def test_no_difference_is_covered() -> None:
    generator = np.random.default_rng(1)
    label, one, user = planted(generator, 0.5)
    other = label * 0.5 + generator.normal(size=len(label))
    difference, low, high = paired_interval(label, one, other, user, resamples=200)
    assert low < 0 < high
    assert low < difference < high
    assert paired_interval(label, one, one, user, resamples=20) == (0.0, 0.0, 0.0)


def test_an_interval_is_repeatable_and_does_not_ask_for_sorted_users() -> None:
    generator = np.random.default_rng(2)
    label, one, user = planted(generator, 0.5)
    other = one + generator.normal(size=len(one))
    first = paired_interval(label, one, other, user, resamples=50)
    assert first == paired_interval(label, one, other, user, resamples=50)
    order = generator.permutation(len(user))
    shuffled = paired_interval(label[order], one[order], other[order], user[order], resamples=50)
    assert shuffled == pytest.approx(first)


def test_whole_users_are_resampled() -> None:
    # One user in whom one score is perfect and the other is perfectly wrong, many users in whom both are perfect:
    # resampling rows would hardly vary, resampling users does.
    label = np.tile([0, 1], 50)
    user = np.repeat(np.arange(50), 2)
    good = label.astype(float)
    bad = np.where(user == 0, 1.0 - label, label).astype(float)
    _, low, high = paired_interval(label, good, bad, user, resamples=300)
    assert low == 0.0  # resamples without that user
    assert high > 0.04  # and with it twice or more
