"""Ranking quality against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offline.training.metrics import Quality, quality


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
