"""Drawn negatives: of whom, of what, and that neither the future nor the way of delivery has a part in them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from offline.data.arrival import with_negatives
from offline.data.config import LabelsConfig
from offline.data.log import InteractionLog

USERS, ITEMS = 12, 30


def labels(drawn: str = "popularity", negatives: int = 3, seed: int = 1) -> LabelsConfig:
    return LabelsConfig.model_validate({"kind": "implicit", "negatives": negatives, "drawn": drawn, "seed": seed})


def rows(count: int = 400, seed: int = 0) -> list[tuple[str, str, float, int]]:
    """Popular items have small numbers."""
    generator = np.random.default_rng(seed)
    items = np.minimum(generator.geometric(0.12, count) - 1, ITEMS - 1)
    return [(f"u{generator.integers(USERS)}", f"i{item}", 1.0, 1000 * at) for at, item in enumerate(items)]


def log_of(interactions: list[tuple[str, str, float, int]]) -> InteractionLog:
    return InteractionLog.sorted_by_time(interactions, [], [])


@pytest.mark.parametrize("drawn", ["popularity", "uniform"])
def test_negatives_know_the_past_and_nothing_else(drawn: str) -> None:
    log = with_negatives(labels(drawn), log_of(rows()), 0.5)
    appeared: set[int] = set()
    touched: set[tuple[int, int]] = set()
    group: list[int] = []
    for row in range(len(log)):
        user, item = int(log.user[row]), int(log.item[row])
        if log.sampled[row]:
            group.append(item)
            assert log.value[row] == 0
            continue
        touched.add((user, item))
        assert len(group) == len(set(group)) <= 3
        assert len(group) == min(3, len(appeared - {item for who, item in touched if who == user}))
        for item in group:
            assert item in appeared
            assert (user, item) not in touched
        group = []
        appeared.add(item)
    assert not group


def test_negatives_share_user_and_time_with_their_positive() -> None:
    log = with_negatives(labels(), log_of(rows(50)), 0.5)
    owner = None
    for row in reversed(range(len(log))):
        if not log.sampled[row]:
            owner = (log.user[row], log.time_ms[row])
        assert (log.user[row], log.time_ms[row]) == owner


@pytest.mark.parametrize("drawn", ["popularity", "uniform"])
def test_draws_have_the_asked_weights(drawn: str) -> None:
    """One user more, who did nothing before a last event, draws from everything by its count."""
    interactions = rows(2000)
    counts = Counter(item for _, item, _, _ in interactions)
    drawn_items: Counter[str] = Counter()
    for seed in range(300):
        log = log_of([*interactions, ("late", "new", 1.0, 10**9)])
        grown = with_negatives(labels(drawn, 1, seed), log, 0.5, from_row=2000)
        drawn_items[grown.item_ids[int(grown.item[2000])]] += 1
    share = drawn_items["i0"] / 300
    expected = counts["i0"] / 2000 if drawn == "popularity" else 1 / len(counts)
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 300) ** 0.5


def test_the_future_has_no_part() -> None:
    whole = with_negatives(labels(), log_of(rows(400)), 0.5)
    part = with_negatives(labels(), log_of(rows(400)[:150]), 0.5)
    assert len(part) > 400
    for name in ("user", "item", "value", "time_ms", "sampled"):
        np.testing.assert_array_equal(getattr(whole, name)[: len(part)], getattr(part, name))


@pytest.mark.parametrize("page", [1, 13, 150])
def test_the_way_of_delivery_has_no_part(page: int) -> None:
    whole = with_negatives(labels(), log_of(rows(300)), 0.5)
    paged = log_of([])
    for at in range(0, 300, page):
        grown, _ = paged.with_rows(rows(300)[at : at + page], [], [])
        paged = with_negatives(labels(), grown, 0.5, from_row=len(paged))
    for name in ("user", "item", "value", "time_ms", "sampled"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(paged, name))


def test_seeds_differ_and_repeat() -> None:
    log = log_of(rows(200))
    first, again, other = (with_negatives(labels(seed=seed), log, 0.5).item.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_only_positives_have_negatives() -> None:
    log = log_of([("u", "a", 1.0, 1), ("v", "b", 0.0, 2), ("v", "a", 1.0, 3), ("w", "c", 1.0, 4)])
    grown = with_negatives(labels(negatives=5), log, 0.5)
    # the first positive has nothing to draw from; v knows b already; w may have a and b
    assert grown.user[grown.sampled].tolist() == [2, 2]
    assert sorted(grown.item_ids[item] for item in grown.item[grown.sampled]) == ["a", "b"]


def test_a_user_who_knows_everything_has_none() -> None:
    log = log_of([("u", f"i{at}", 1.0, at) for at in range(50)])
    assert not with_negatives(labels(), log, 0.5).sampled.any()


def test_negatives_are_drawn_once() -> None:
    grown = with_negatives(labels(), log_of(rows(50)), 0.5)
    with pytest.raises(ValueError, match="have negatives already"):
        with_negatives(labels(), grown, 0.5)
    assert len(with_negatives(labels(), grown, 0.5, from_row=len(grown))) == len(grown)
