"""The quick resamples against those of the bootstrap and against rows that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest

from offline.training.bootstrap import Resamples
from research.quality import resampling
from research.quality.metrics import log_losses
from research.quality.resampling import UserResamples


def planted(levels: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, score, user): unsorted users with gaps, of very different activity."""
    generator = np.random.default_rng(7)
    user = generator.choice([3, 5, 8, 900, 12, 7], 300, p=[0.5, 0.2, 0.1, 0.1, 0.07, 0.03])
    label = generator.integers(0, 2, 300).astype(np.float32)
    score = generator.random(300) * 0.7 + 0.3 * label
    return label, (score if levels is None else np.floor(score * levels) / levels).astype(np.float32), user


@pytest.mark.parametrize("most_users", [4000, 3], ids=["by pairs of users", "resample by resample"])
@pytest.mark.parametrize("levels", [None, 1, 5], ids=["no ties", "one value", "five values"])
def test_auc_is_that_of_the_bootstrap(levels: int | None, most_users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_MOST_USERS", most_users)
    label, score, user = planted(levels)
    found = UserResamples(label, user, 50, seed=3).auc(score)
    np.testing.assert_allclose(found, Resamples(label, user, 50, seed=3).auc(score), atol=1e-13)


def test_resamples_of_one_label_have_no_auc() -> None:
    label, user = np.array([1, 1, 0, 0, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    score = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.3])
    found, expected = UserResamples(label, user, 300).auc(score), Resamples(label, user, 300).auc(score)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert 0 < np.isnan(found).sum() < 300
    assert np.isnan(UserResamples(np.ones(6), user, 5).auc(score)).all()


def test_a_mean_is_that_of_rows_really_repeated() -> None:
    label, score, user = planted(None)
    losses = log_losses(label, score)
    resamples = UserResamples(label, user, 20)
    owner = np.unique(user, return_inverse=True)[1]
    expected = [losses[np.repeat(np.arange(300), times[owner].astype(int))].mean() for times in resamples._weights]
    np.testing.assert_allclose(resamples.mean(losses), expected)
    assert resamples.mean(losses)[0] == pytest.approx(losses.mean())
