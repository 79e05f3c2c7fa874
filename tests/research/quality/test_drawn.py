"""Drawn candidates: of the purchase's coldness, nothing of a later part, nothing that the user has; and measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offline.config import SamplesConfig
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.metrics import auc_within, ndcg_within
from offline.training.samples import SplitRows, split_samples
from research.quality.drawn import (
    DRAWINGS,
    Drawing,
    JudgedPart,
    draw_lists,
    item_coldness,
    purchases,
    row_measures,
)
from tests.research.purchases import shop

of_both_drawings = pytest.mark.parametrize("drawn", DRAWINGS)
of_both_parts = pytest.mark.parametrize("part", ["validation", "test"])


def lists(log: InteractionLog, splits: SplitRows, part: JudgedPart = "test", **options: Any) -> Any:
    rows = purchases(log, splits, part, 0.5)
    return draw_lists(log, splits, part, rows, **{"drawn": "uniform", "negatives": 20, **options})


@of_both_parts
def test_purchases_are_all_of_the_part_and_no_drawn_row(part: JudgedPart) -> None:
    log, splits = shop()
    rows = purchases(log, splits, part, 0.5)
    assert len(rows) == 40 * 3
    assert not log.sampled[rows].any()
    assert log.part_ends is not None
    _, validation, test = log.part_ends
    assert ((rows >= validation) == (part == "test")).all()
    assert rows.max() < (test if part == "test" else validation)


def test_a_log_without_parts_is_cut_by_its_samples() -> None:
    log, _ = shop()
    whole = replace(log, part_ends=None)
    splits = split_samples(SamplesConfig(min_history=3), whole)
    rows = purchases(whole, splits, "test", 0.5)
    assert rows.min() >= splits.rows["test"][0]
    assert rows.max() == splits.rows["test"][-1]


@of_both_drawings
@of_both_parts
def test_candidates_are_of_the_purchases_own_coldness(drawn: Drawing, part: JudgedPart) -> None:
    log, splits = shop()
    of = lists(log, splits, part, drawn=drawn)
    trained = log.item[log.observed[log.observed < splits.trained_rows]]
    count = np.bincount(trained, minlength=50)
    expected = np.where(count == 0, 0, np.where(count < 10, 1, 2))
    np.testing.assert_array_equal(item_coldness(log, splits.trained_rows), expected)
    assert set(of.coldness.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(expected[of.items], np.repeat(of.coldness[:, None], 21, axis=1))
    np.testing.assert_array_equal(of.items[:, 0], log.item[of.rows])


@of_both_drawings
def test_nothing_of_a_later_part_and_nothing_that_the_user_has(drawn: Drawing) -> None:
    log, splits = shop()
    of = lists(log, splits, "validation", drawn=drawn)
    assert of.items.max() < 40  # what only the test part knows is no candidate of the validation part
    assert lists(log, splits, "test", drawn=drawn).items.max() >= 40
    assert log.part_ends is not None
    end = log.part_ends[1]
    earlier = log.observed[log.observed < end]
    for row, items in zip(of.rows.tolist(), of.items[:, 1:], strict=True):
        own = log.item[earlier[log.user[earlier] == log.user[row]]]
        assert not np.isin(items, own).any()


@of_both_drawings
def test_draws_do_not_depend_on_what_comes_after_the_part(drawn: Drawing) -> None:
    log, splits = shop()
    assert log.part_ends is not None
    later = log.item.copy()
    later[log.part_ends[1] :] = np.roll(later[log.part_ends[1] :], 7)
    other = replace(log, item=later)
    np.testing.assert_array_equal(
        lists(log, splits, "validation", drawn=drawn).items, lists(other, splits, "validation", drawn=drawn).items
    )


@of_both_drawings
def test_a_seed_draws_the_same_for_any_of_the_rows(drawn: Drawing) -> None:
    log, splits = shop()
    whole = lists(log, splits, drawn=drawn)
    np.testing.assert_array_equal(whole.items, lists(log, splits, drawn=drawn).items)
    some = draw_lists(log, splits, "test", whole.rows[::3], drawn, 20)
    np.testing.assert_array_equal(some.items, whole.items[::3])
    assert (lists(log, splits, drawn=drawn, seed=2).items != whole.items).mean() > 0.5


def test_popularity_draws_what_is_bought_more_often_more_often() -> None:
    log, splits = shop()
    trained = np.bincount(log.item[log.observed[log.observed < splits.trained_rows]], minlength=50)
    later = np.bincount(log.item[log.observed[log.observed >= splits.trained_rows]], minlength=50)
    for coldness, count in ((0, later), (2, trained)):
        shares = {}
        for drawn in DRAWINGS:
            of = lists(log, splits, drawn=drawn, negatives=400)
            shares[drawn] = np.bincount(of.items[of.coldness == coldness, 1:].ravel(), minlength=50)
        pool = np.flatnonzero(shares["uniform"])
        most = pool[np.argsort(-count[pool], kind="stable")[:3]]
        ratio = {drawn: share[most].sum() / share.sum() for drawn, share in shares.items()}
        assert ratio["popularity"] > 1.1 * ratio["uniform"]


def test_a_user_who_has_everything_gets_a_clear_error() -> None:
    log, splits = shop(users=3)
    everything = replace(log, user=np.zeros_like(log.user))
    with pytest.raises(DataError, match="user u0 has had every item with"):
        lists(everything, splits)


def test_measures_are_those_of_metrics() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 12, (60, 30)).astype(np.float32)  # many ties
    scores[0], scores[1, 0] = 3.0, 99.0
    measured = row_measures(scores)
    label = np.zeros(scores.shape)
    label[:, 0] = 1.0
    flat = label.ravel(), scores.ravel(), np.repeat(np.arange(60), 30)
    np.testing.assert_allclose(measured["auc"], auc_within(*flat))
    np.testing.assert_allclose(measured["ndcg"], ndcg_within(*flat))
    assert measured["auc"][0] == 0.5
    assert measured["hits"][0] == pytest.approx(10 / 30)
    assert measured["auc"][1] == measured["ndcg"][1] == measured["hits"][1] == 1.0
    with pytest.raises(ValueError, match="not a number"):
        row_measures(np.full((2, 3), np.nan, np.float32))


def test_the_truth_has_all_and_no_knowledge_has_half() -> None:
    log, splits = shop()
    of = lists(log, splits)
    truth = (np.arange(21) == 0) * np.ones((len(of.rows), 1))
    assert row_measures(truth)["auc"].mean() == 1.0
    assert row_measures(np.zeros(truth.shape))["auc"].mean() == 0.5
    noise = np.random.default_rng(1).random(truth.shape)
    assert abs(row_measures(noise)["auc"].mean() - 0.5) < 0.1
