"""Arrival of interactions in the log, for every kind of labels; drawn negatives: of whom, of what, and that neither the
future nor the way of delivery has a part in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.events import Interaction
from offline.data.arrival import append_new, append_streamed, draw_negatives, first_log
from offline.data.catalogue import DataError
from offline.data.config import LabelsConfig
from offline.data.log import InteractionLog
from tests.offline.data import shop

BINARY = {"value_min": 0.0, "value_max": 1.0, "liked_above": 0.5, "value_center": 0.5, "value_scale": 0.5}
IMPLICIT_SCHEMA = shop.SCHEMA.model_copy(update={**BINARY, "history_types": ("click",)})
IMPLICIT: dict[str, Any] = {"labels": {"kind": "implicit", "negatives": 1}, "interactions": {"value": None}}


def load(folder: Path, **changed: Any) -> InteractionLog:
    source = shop.source(folder, **changed)
    schema = IMPLICIT_SCHEMA if changed else shop.SCHEMA
    return first_log(source, source.catalogue(), shop.config(folder, **changed).labels, schema)


def test_the_first_load_keeps_the_order_of_the_catalogue(tmp_path: Path) -> None:
    shop.write(tmp_path)
    log = load(tmp_path)
    assert (log.user_ids, log.item_ids) == (("r1", "r2", "r3"), ("b1", "b2", "b3"))
    assert log.time_ms.tolist() == [1000 * at for _, _, _, at in shop.RATINGS]
    assert not log.sampled.any()


def test_broken_data_make_no_log(tmp_path: Path) -> None:
    shop.write(tmp_path)
    with (tmp_path / "ratings.csv").open("a") as file:
        file.write("r1,b1,9,1700000000\n")
    with pytest.raises(DataError, match=r"value_range: .*row 6: 9\.0"):
        load(tmp_path)


def test_files_that_have_grown_are_read_again(tmp_path: Path) -> None:
    shop.write(tmp_path)
    log, _, _ = append_streamed(
        load(tmp_path), [clicked("r9", "b2", 4.0, 1, "rating")], "5-0", LabelsConfig(), shop.SCHEMA
    )
    with (tmp_path / "ratings.csv").open("a") as file:
        file.write("r3,b1,5,1600000000\nr3,b2,4,1600000001\n")
    with (tmp_path / "books.csv").open("a") as file:
        file.write("b4,New,2024,Travel\n")
    source = shop.source(tmp_path)
    grown, added = append_new(log, source, source.catalogue(), LabelsConfig(), shop.SCHEMA)
    assert (added, len(grown), grown.stream_mark) == (2, len(log) + 2, "5-0")
    assert grown.item_ids == (*log.item_ids, "b4")
    assert grown.time_ms[-2:].tolist() == [1600000000000, 1600000001000]
    assert append_new(grown, source, source.catalogue(), LabelsConfig(), shop.SCHEMA)[1] == 0


START_MS = 1_700_000_000_000


def clicked(user: str, item: str, value: float, time_ms: int, kind: str = "click") -> Interaction:
    return Interaction(user_id=user, item_id=item, type=kind, value=value, time_ms=START_MS + time_ms)


def test_streams_are_filtered_by_type_and_value(tmp_path: Path) -> None:
    shop.write(tmp_path)
    entries = [
        clicked("r1", "b3", 4.0, 1, "rating"),
        clicked("r1", "b3", 4.0, 1, "view"),
        clicked("r1", "b3", 9.0, 1, "rating"),
        clicked("r1", "b3", 4.0, 1, "rating"),
        clicked("null", "b3", 4.0, 1, "rating"),
        clicked("r1", "NaN", 4.0, 1, "rating"),
        clicked(" ", "b3", 4.0, 1, "rating"),
        clicked("r1", "b1", 4.0, -START_MS, "rating"),
        clicked("r1", "b1", 4.0, 99 * START_MS, "rating"),
    ]
    log, added, left_out = append_streamed(load(tmp_path), entries, "8-0", LabelsConfig(), shop.SCHEMA)
    assert (len(log), added, log.stream_mark) == (6, 1, "8-0")
    assert left_out == {
        "of another type": 1,
        "of a value out of range": 1,
        "of nobody": 3,
        "of a time before 1973": 1,
        "of a time in the future": 1,
    }
    assert set(log.user_ids) == {"r1", "r2", "r3"}


def test_who_is_nobody_can_be_said(tmp_path: Path) -> None:
    shop.write(tmp_path)
    entries = [clicked("null", "b3", 4.0, 1, "rating"), clicked("0", "b3", 4.0, 1, "rating")]
    log, added, left_out = append_streamed(load(tmp_path), entries, "2-0", LabelsConfig(), shop.SCHEMA, ["0"])
    assert (added, left_out, log.user_ids[-1]) == (1, {"of nobody": 1}, "null")


@pytest.mark.parametrize("page", [1, 2, 10])
def test_implicit_feedback_gets_its_negatives_as_it_arrives(tmp_path: Path, page: int) -> None:
    shop.write(tmp_path)
    log = load(tmp_path, **IMPLICIT)
    labels = shop.config(tmp_path, **IMPLICIT).labels
    assert log.value[~log.sampled].tolist() == [1.0] * 5
    assert 0 < log.sampled.sum() <= 5
    entries = [clicked("r3", "b1", 1.0, 7), clicked("new", "b2", 1.0, 5), clicked("r3", "b1", 1.0, 7)]
    paged, added = log, 0
    for at in range(0, len(entries), page):
        paged, new, _ = append_streamed(paged, entries[at : at + page], "1", labels, IMPLICIT_SCHEMA)
        added += new
    assert added == 2
    assert paged.sampled[len(log) :].tolist() == [True, False, True, False]
    again, more, _ = append_streamed(paged, entries, "2", labels, IMPLICIT_SCHEMA)
    assert (more, len(again)) == (0, len(paged))


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
    log = draw_negatives(labels(drawn), log_of(rows()), 0.5)
    appeared: set[int] = set()
    touched: set[tuple[int, int]] = set()
    group: list[int] = []
    for row in range(len(log)):
        user, item = int(log.user[row]), int(log.item[row])
        if log.sampled[row]:
            group.append(item)
            assert log.value[row] == 0
            continue
        own = {before for who, before in touched if who == user}
        repeated = group[:1] if item in own and own != {item} else []
        assert set(repeated) <= own - {item}
        strange = group[len(repeated) :]
        assert len(group) == len(set(group)) <= 3
        assert set(strange) <= appeared - own - {item}
        assert len(strange) == min(3 - len(repeated), len(appeared - own - {item}))
        touched.add((user, item))
        group = []
        appeared.add(item)
    assert not group


def test_negatives_share_user_and_time_with_their_positive() -> None:
    log = draw_negatives(labels(), log_of(rows(50)), 0.5)
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
        grown = draw_negatives(labels(drawn, 1, seed), log, 0.5, from_row=2000)
        drawn_items[grown.item_ids[int(grown.item[2000])]] += 1
    share = drawn_items["i0"] / 300
    expected = counts["i0"] / 2000 if drawn == "popularity" else 1 / len(counts)
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 300) ** 0.5


def test_a_repeat_is_drawn_against_what_its_user_had_before_all_alike() -> None:
    """The user had i0 ten times, i1 and i2 once, another one i3, and takes i1 again; i2 comes later once more."""
    before = [("u", "i0", 1.0, at) for at in range(10)] + [("u", "i1", 1.0, 10), ("u", "i2", 1.0, 11)]
    interactions = [*before, ("v", "i3", 1.0, 12), ("u", "i1", 1.0, 13), ("u", "i2", 1.0, 14)]
    drawn_items = Counter[str]()
    for seed in range(300):
        log = draw_negatives(labels("popularity", 2, seed), log_of(interactions), 0.5, from_row=13)
        first, second = (log.item_ids[log.item[13 + slot]] for slot in (0, 1))
        assert second == "i3"
        drawn_items[first] += 1
    assert set(drawn_items) == {"i0", "i2"}
    assert abs(drawn_items["i0"] / 300 - 0.5) < 4 * (0.25 / 300) ** 0.5


def test_the_future_has_no_part() -> None:
    whole = draw_negatives(labels(), log_of(rows(400)), 0.5)
    part = draw_negatives(labels(), log_of(rows(400)[:150]), 0.5)
    assert len(part) > 400
    for name in ("user", "item", "value", "time_ms", "sampled"):
        np.testing.assert_array_equal(getattr(whole, name)[: len(part)], getattr(part, name))


@pytest.mark.parametrize("page", [1, 13, 150])
def test_the_way_of_delivery_has_no_part(page: int) -> None:
    whole = draw_negatives(labels(), log_of(rows(300)), 0.5)
    paged = log_of([])
    for at in range(0, 300, page):
        grown, _ = paged.with_rows(rows(300)[at : at + page], [], [])
        paged = draw_negatives(labels(), grown, 0.5, from_row=len(paged))
    for name in ("user", "item", "value", "time_ms", "sampled"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(paged, name))


def test_seeds_differ_and_repeat() -> None:
    log = log_of(rows(200))
    first, again, other = (draw_negatives(labels(seed=seed), log, 0.5).item.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_only_positives_have_negatives() -> None:
    log = log_of([("u", "a", 1.0, 1), ("v", "b", 0.0, 2), ("v", "a", 1.0, 3), ("w", "c", 1.0, 4)])
    grown = draw_negatives(labels(negatives=5), log, 0.5)
    # the first positive has nothing to draw from; v knows b already; w may have a and b
    assert grown.user[grown.sampled].tolist() == [2, 2]
    assert sorted(grown.item_ids[item] for item in grown.item[grown.sampled]) == ["a", "b"]


def test_a_user_who_knows_everything_has_none() -> None:
    log = log_of([("u", f"i{at}", 1.0, at) for at in range(50)])
    assert not draw_negatives(labels(), log, 0.5).sampled.any()


def test_negatives_are_drawn_once() -> None:
    grown = draw_negatives(labels(), log_of(rows(50)), 0.5)
    with pytest.raises(ValueError, match="have negatives already"):
        draw_negatives(labels(), grown, 0.5)
    assert len(draw_negatives(labels(), grown, 0.5, from_row=len(grown))) == len(grown)
