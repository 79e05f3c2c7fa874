"""Paired intervals: weighted AUC against scikit-learn on really resampled rows, and planted cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from offline.metrics import log_losses
from offline.training import bootstrap
from offline.training.bootstrap import Difference, Resamples, difference

USERS, PER_USER = 60, 20


def planted(generator: np.random.Generator, signal: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, score, user): a score that knows the label as well as ``signal`` says."""
    label = generator.integers(0, 2, USERS * PER_USER)
    return label, label * signal + generator.normal(size=len(label)), np.repeat(np.arange(USERS), PER_USER)


def interval(
    label: np.ndarray, score: np.ndarray, baseline: np.ndarray, user: np.ndarray, count: int = 200, seed: int = 0
) -> Difference:
    resamples = Resamples(label, user, count, seed)
    return difference(resamples.auc(score), resamples.auc(baseline))


def of_resampled_rows(label: np.ndarray, score: np.ndarray, user: np.ndarray, times: np.ndarray) -> float:
    """scikit-learn's AUC of a data set that holds all rows of user ``i`` ``times[i]`` times."""
    rows = np.repeat(np.arange(len(label)), times[np.unique(user, return_inverse=True)[1]].astype(int))
    return float(roc_auc_score(label[rows], score[rows]))


@pytest.mark.parametrize("levels", [None, 2, 5], ids=["no ties", "two values", "five values"])
def test_auc_is_scikit_learns_of_the_resampled_rows(levels: int | None) -> None:
    generator = np.random.default_rng(3)
    user = generator.choice([3, 5, 8, 900, 12, 7], 150)  # unsorted, with gaps
    label = generator.integers(0, 2, 150).astype(np.float32)
    score = (generator.random(150) + 0.3 * label).astype(np.float32)
    score = score if levels is None else np.floor(score * levels)
    resamples = Resamples(label, user, count=30)
    auc = resamples.auc(score)
    assert auc.shape == (31,)
    expected = [of_resampled_rows(label, score, user, times) for times in resamples._weights]
    np.testing.assert_allclose(auc, expected, atol=1e-12)
    assert auc[0] == pytest.approx(roc_auc_score(label, score))


def test_a_resample_draws_as_many_users_as_there_are() -> None:
    resamples = Resamples(np.array([0, 1, 0, 1]), np.array([1, 1, 2, 7]), count=50)
    assert resamples._weights[0].tolist() == [1, 1, 1]
    assert all(times.sum() == 3 for times in resamples._weights)
    assert len({tuple(times) for times in resamples._weights}) > 5


def test_equal_scores_are_worth_a_half() -> None:
    resamples = Resamples(np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), count=5)
    np.testing.assert_array_equal(resamples.auc(np.full(4, 0.5)), np.full(6, 0.5))


def test_a_planted_difference_is_found() -> None:
    label, weak, user = planted(np.random.default_rng(0), 0.5)
    strong = weak + 0.5 * label
    gain, back = interval(label, strong, weak, user), interval(label, weak, strong, user)
    assert 0 < gain.low < gain.middle < gain.high
    assert gain.is_shown
    assert back.is_shown
    assert (back.middle, back.low, back.high) == pytest.approx((-gain.middle, -gain.high, -gain.low))


def test_intervals_cover_a_planted_difference() -> None:
    truth = (math.erf(1.0 / 2) - math.erf(0.5 / 2)) / 2  # AUC of signal s: Phi(s / sqrt 2) = (1 + erf(s / 2)) / 2
    covered = 0
    for seed in range(40):
        label, weak, user = planted(np.random.default_rng(seed), 0.5)
        gain = interval(label, weak + 0.5 * label, weak, user, count=120)
        covered += gain.low <= truth <= gain.high
        assert gain.is_shown
    assert covered >= 34  # 38 are to be expected


def test_no_difference_is_rarely_shown() -> None:
    shown = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        label, score, user = planted(generator, 0.5)
        shown += interval(label, score, label * 0.5 + generator.normal(size=len(label)), user, count=120).is_shown
    assert shown <= 6  # 2 are to be expected


def test_a_model_does_not_differ_from_itself() -> None:
    label, score, user = planted(np.random.default_rng(1), 0.5)
    assert interval(label, score, score, user, count=20) == Difference(0.0, 0.0, 0.0)
    assert not Difference(0.0, 0.0, 0.0).is_shown


def test_an_interval_is_repeatable_and_does_not_ask_for_sorted_users() -> None:
    generator = np.random.default_rng(2)
    label, score, user = planted(generator, 0.5)
    baseline = score + generator.normal(size=len(score))
    first = interval(label, score, baseline, user, count=50)
    assert first == interval(label, score, baseline, user, count=50)
    assert first != interval(label, score, baseline, user, count=50, seed=1)
    order = generator.permutation(len(user))
    shuffled = interval(label[order], score[order], baseline[order], user[order], count=50)
    assert (shuffled.middle, shuffled.low, shuffled.high) == pytest.approx((first.middle, first.low, first.high))


def test_whole_users_are_resampled() -> None:
    # One user in whom one score is perfect and the other is perfectly wrong, many users in whom both are perfect:
    # resampling rows would hardly vary, resampling users does.
    label = np.tile([0, 1], 50)
    user = np.repeat(np.arange(50), 2)
    good = label.astype(float)
    bad = np.where(user == 0, 1.0 - label, label).astype(float)
    gain = interval(label, good, bad, user, count=300)
    assert gain.low == 0.0  # resamples without that user
    assert gain.high > 0.04  # and with it twice or more


def test_resamples_of_one_label_are_left_out() -> None:
    """Only user 0 has positives; a third of all resamples miss the user, or have nobody else."""
    label, user = np.array([1, 1, 0, 0, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    score, baseline = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.3]), np.array([0.9, 0.2, 0.7, 0.1, 0.3, 0.25])
    resamples = Resamples(label, user, count=300)
    first, second = resamples.auc(score), resamples.auc(baseline)
    assert 60 < np.isnan(first).sum() < 150
    np.testing.assert_array_equal(np.isnan(first), np.isnan(second))
    assert not np.isnan(first[0])
    gain = difference(first, second)
    deltas = (first - second)[1:]
    deltas = deltas[~np.isnan(deltas)]
    assert gain == Difference(1.0 - 0.625, *np.percentile(deltas, [2.5, 97.5]).tolist())
    assert np.isnan(resamples.mean_auc({1: score, 2: baseline})).sum() == np.isnan(first).sum()


def test_a_model_of_several_seeds_is_their_mean_in_every_resample() -> None:
    generator = np.random.default_rng(5)
    label, first, user = planted(generator, 0.5)
    second, third = first + generator.normal(size=len(first)), first + generator.normal(size=len(first))
    resamples = Resamples(label, user, count=40)
    each = [resamples.auc(score) for score in (first, second, third)]
    np.testing.assert_allclose(resamples.mean_auc({1: first, 2: second, 3: third}), np.mean(each, axis=0), atol=1e-15)
    np.testing.assert_array_equal(resamples.mean_auc({9: first}), each[0])


def test_seeds_narrow_an_interval_that_their_noise_widened() -> None:
    """Two models that differ by noise alone: with more seeds the difference of the means comes closer to zero."""
    generator = np.random.default_rng(6)
    label, score, user = planted(generator, 1.0)
    resamples = Resamples(label, user, count=200)

    def model(seeds: int) -> np.ndarray:
        return resamples.mean_auc({seed: score + generator.normal(size=len(score)) for seed in range(seeds)})

    few, many = difference(model(1), model(1)), difference(model(10), model(10))
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_how_a_difference_reads() -> None:
    assert str(Difference(0.01234, -0.002, 0.03)) == "+0.0123 [-0.0020, +0.0300]"
    assert Difference(-0.1, -0.2, -0.01).is_shown
    assert not Difference(0.1, -0.01, 0.2).is_shown


def few_users(levels: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, score, user): unsorted users with gaps, of very different activity."""
    generator = np.random.default_rng(7)
    user = generator.choice([3, 5, 8, 900, 12, 7], 300, p=[0.5, 0.2, 0.1, 0.1, 0.07, 0.03])
    label = generator.integers(0, 2, 300).astype(np.float32)
    score = generator.random(300) * 0.7 + 0.3 * label
    return label, (score if levels is None else np.floor(score * levels) / levels).astype(np.float32), user


@pytest.mark.parametrize("levels", [None, 1, 5], ids=["no ties", "one value", "five values"])
def test_counting_pairs_and_going_by_resamples_agree(levels: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    label, score, user = few_users(levels)
    by_pairs = Resamples(label, user, 50, seed=3).auc(score)
    monkeypatch.setattr(bootstrap, "_MOST_USERS", 3)
    np.testing.assert_allclose(Resamples(label, user, 50, seed=3).auc(score), by_pairs, atol=1e-13)


@pytest.mark.parametrize("most_users", [4000, 2], ids=["by pairs of users", "resample by resample"])
def test_resamples_of_one_label_have_no_auc(most_users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_MOST_USERS", most_users)
    label, user = np.array([1, 1, 0, 0, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    score = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.3])
    resamples = Resamples(label, user, 300)
    without_positives = resamples._weights[:, 0] == 0
    without_negatives = resamples._weights[:, 1:].sum(axis=1) == 0
    np.testing.assert_array_equal(np.isnan(resamples.auc(score)), without_positives | without_negatives)
    assert 0 < np.isnan(resamples.auc(score)).sum() < 300
    assert np.isnan(Resamples(np.ones(6), user, 5).auc(score)).all()


def test_a_mean_is_that_of_rows_really_repeated() -> None:
    label, score, user = few_users(None)
    losses = log_losses(label, score)
    resamples = Resamples(label, user, 20)
    owner = np.unique(user, return_inverse=True)[1]
    expected = [losses[np.repeat(np.arange(300), times[owner].astype(int))].mean() for times in resamples._weights]
    np.testing.assert_allclose(resamples.mean(losses), expected)
    assert resamples.mean(losses)[0] == pytest.approx(losses.mean())


def test_samples_of_one_label_have_an_undefined_difference() -> None:
    resamples = Resamples(np.ones(6), np.array([0, 0, 1, 1, 2, 2]), 20)
    delta = difference(resamples.auc(np.linspace(0, 1, 6)), resamples.auc(np.zeros(6)))
    assert (str(delta), delta.is_shown, delta.is_defined) == ("undefined", False, False)


@pytest.mark.parametrize("most_users", [0, 4000])
def test_sets_of_samples_have_the_same_resamples_of_all_users(most_users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users without samples in a set are drawn like others, and count for nothing there."""
    monkeypatch.setattr(bootstrap, "_MOST_USERS", most_users)
    generator = np.random.default_rng(4)
    user, label, score = generator.integers(12, size=300), generator.random(300) < 0.5, generator.random(300)
    here = user % 3 > 0
    of_some = Resamples(label[here], user[here], count=40, users=user)
    of_all = Resamples(label, user, count=40)
    np.testing.assert_array_equal(of_some.mean(np.ones(here.sum())), np.ones(41))
    alone = Resamples(label[here], user[here], count=40)
    assert of_some.auc(score[here])[0] == alone.auc(score[here])[0]
    weights = of_all._weights  # of the users 0 to 11
    for resample in (0, 1, 40):
        times = weights[resample][user[here]].astype(int)
        expected = roc_auc_score(np.repeat(label[here], times), np.repeat(score[here], times))
        assert of_some.auc(score[here])[resample] == pytest.approx(expected)
