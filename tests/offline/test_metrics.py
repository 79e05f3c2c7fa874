"""Ranking quality against scikit-learn, a plain loop over users, and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from offline.metrics import (
    GAUC_SAMPLES,
    Quality,
    auc,
    auc_within,
    best_epoch,
    gauc,
    in_words,
    log_losses,
    ndcg_at,
    ndcg_within,
    quality,
    reciprocal_rank_within,
)

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """(label, score, user) of a few users, with many equal scores, and with both labels somewhere."""
    count = draw(st.integers(2, 60))
    label = draw(
        st.lists(st.integers(0, 1), min_size=count, max_size=count).filter(lambda labels: len(set(labels)) == 2)
    )
    score = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    user = draw(st.lists(st.sampled_from([3, 4, 90]), min_size=count, max_size=count))
    return np.array(label, np.float32), np.array(score, np.float32) / 10, np.array(user)


def quality_of(rows: list[tuple[int, float, int]]) -> Quality:
    """Of (label, score, user) rows."""
    label, score, user = (np.array(column) for column in zip(*rows, strict=True))
    return quality(label.astype(np.float32), score.astype(np.float32), user)


def gauc_of(rows: list[tuple[int, float, int]], least: int = GAUC_SAMPLES) -> float:
    label, score, user = (np.array(column) for column in zip(*rows, strict=True))
    return gauc(label, score.astype(np.float32), user, least)


def test_a_user_counts_in_gauc_from_ten_samples_on() -> None:
    rows = [(1, 0.9, 0), *[(0, 0.1, 0)] * 8, (1, 0.1, 1), *[(0, 0.9, 1)] * 9]
    assert GAUC_SAMPLES == 10
    assert gauc_of(rows) == 0.0
    assert gauc_of([*rows, (0, 0.1, 0)]) == 0.5


def test_hand_computed_values() -> None:
    # User 0: the pairs 0.9 > 0.2 and 0.4 > 0.2 are right: AUC 1 over 3 samples. User 1: 0.1 < 0.6 is wrong: AUC 0 over
    # 2 samples. User 2 has one label only and counts for nothing in GAUC.
    rows = [(1, 0.9, 0), (1, 0.4, 0), (0, 0.2, 0), (1, 0.1, 1), (0, 0.6, 1), (1, 0.5, 2)]
    measures = quality_of(rows)
    # Positives 0.9, 0.4, 0.1, 0.5 against negatives 0.2, 0.6: right are 0.9 > both, 0.4 > 0.2, 0.5 > 0.2.
    assert measures.auc == pytest.approx(4 / 8)
    assert math.isnan(measures.gauc)  # nobody has ten samples
    assert gauc_of(rows, least=1) == pytest.approx((1.0 * 3 + 0.0 * 2) / 5)
    assert gauc_of(rows, least=3) == 1.0
    chances = [0.9, 0.4, 1 - 0.2, 0.1, 1 - 0.6, 0.5]
    assert measures.logloss == pytest.approx(-sum(math.log(chance) for chance in chances) / 6, rel=1e-6)


def test_ties_count_half() -> None:
    assert quality_of([(1, 0.5, 0), (0, 0.5, 0)]).auc == 0.5


def test_certain_and_wrong_scores_have_a_finite_loss() -> None:
    measures = quality_of([(1, 0.0, 0), (0, 1.0, 0)])
    assert measures.auc == 0.0
    assert measures.logloss == pytest.approx(-math.log(1e-7), rel=1e-3)


def test_users_of_one_label_leave_no_gauc() -> None:
    assert math.isnan(gauc_of([(1, 0.5, 0), (0, 0.4, 1)], least=1))


def test_one_label_leaves_auc_undefined_and_the_logloss_is_what_it_is() -> None:
    measures = quality_of([(1, 0.5, 0), (1, 0.4, 1)])
    assert math.isnan(measures.auc)
    assert math.isnan(measures.gauc)
    assert measures.logloss == pytest.approx(-(math.log(0.5) + math.log(0.4)) / 2, rel=1e-6)
    assert (in_words(measures.auc), in_words(None), in_words(0.75)) == ("undefined", "undefined", "0.7500")


def test_the_best_epoch_is_the_first_of_the_lowest_logloss() -> None:
    assert best_epoch([Quality(0.6, 0.5, 0.6), Quality(0.7, 0.1, 0.6), Quality(0.8, 0.1, 0.6)]) == 1
    undefined = float("nan")
    assert best_epoch([Quality(undefined, 0.5, undefined), Quality(undefined, 0.4, undefined)]) == 1


def test_scores_of_a_model_that_diverged_are_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        quality_of([(1, 0.5, 0), (0, math.nan, 1)])


def gauc_by_user(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> float:
    """GAUC as it is defined: scikit-learn's AUC, user by user."""
    total, weight = 0.0, 0
    for owner in np.unique(user):
        rows = user == owner
        if label[rows].min() != label[rows].max():
            total += float(roc_auc_score(label[rows], score[rows])) * int(rows.sum())
            weight += int(rows.sum())
    return total / weight if weight else float("nan")


@settings(deadline=None)
@given(rows())
def test_auc_gauc_and_logloss_are_scikit_learns(given_rows: Rows) -> None:
    label, score, user = given_rows
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score))
    assert gauc(label, score, user, least=1) == pytest.approx(gauc_by_user(label, score, user), nan_ok=True)
    clipped = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    assert log_losses(label, score).mean() == pytest.approx(log_loss(label, clipped))


@pytest.mark.parametrize("values", [2, 50, 10**6], ids=["nearly all tie", "many ties", "hardly any tie"])
def test_gauc_of_many_users_is_that_of_the_loop(values: int) -> None:
    generator = np.random.default_rng(values)
    user = generator.choice(200, 3000, p=np.arange(1, 201) / 20100)
    label = generator.integers(0, 2, 3000).astype(np.float32)
    score = (generator.integers(0, values, 3000) / values).astype(np.float32)
    assert gauc(label, score, user, least=1) == pytest.approx(gauc_by_user(label, score, user), abs=1e-12)


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
    assert gauc(label, score, user, least=1) == 1.0
    assert math.isnan(ndcg_at(label[2:], score[2:], user[2:]))
    assert math.isnan(gauc(label[2:], score[2:], user[2:], least=1))


@settings(deadline=None)
@given(rows(), st.integers(1, 12))
def test_ndcg_is_scikit_learns(given_rows: Rows, k: int) -> None:
    label, score, user = given_rows
    each = [
        ndcg_score([label[user == owner]], [score[user == owner]], k=k)
        for owner in np.unique(user)
        if len(set(label[user == owner])) == 2
    ]
    ndcg = ndcg_at(label, score, user, k)
    assert ndcg == pytest.approx(np.mean(each)) if each else math.isnan(ndcg)


@settings(deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_says_nothing(given_rows: Rows, random: object) -> None:
    label, score, user = given_rows
    order = np.array(random.sample(range(len(label)), len(label)))  # type: ignore[attr-defined]
    for metric in (ndcg_at, gauc):
        shuffled = metric(label[order], score[order], user[order])
        assert shuffled == pytest.approx(metric(label, score, user), nan_ok=True)


@given(rows())
@settings(max_examples=50, deadline=None)
def test_within_groups_each_has_its_own_value(sample: Rows) -> None:
    label, score, group = sample
    areas, gains = auc_within(label, score, group), ndcg_within(label, score, group, 3)
    ranks = reciprocal_rank_within(label, score, group)
    for at, name in enumerate(np.unique(group)):
        mine = group == name
        mixed = len(set(label[mine])) == 2
        assert np.isnan(areas[at]) == np.isnan(gains[at]) == (not mixed)
        if mixed:
            assert areas[at] == pytest.approx(roc_auc_score(label[mine], score[mine]))
            assert gains[at] == pytest.approx(ndcg_score(label[mine][None], score[mine][None], k=3))
        places = [
            (score[mine] > value).sum() + ((score[mine] == value).sum() - 1) / 2 for value in score[mine & (label > 0)]
        ]
        assert ranks[at] == pytest.approx(1 / (1 + min(places)) if places else 0.0)
