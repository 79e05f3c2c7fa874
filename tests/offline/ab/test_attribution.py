"""Interactions joined to exposures: every one is counted once, for what it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from offline.ab import attribution
from offline.ab.attribution import Attribution, attribute, first_of_requests, is_click
from offline.ab.inputs import EXPOSURES, INTERACTIONS, ClickRule
from tests.offline.ab.examples import EXAMPLES

START, WINDOW = 1000, 500

SHOWN: tuple[tuple[str, str, int, list[str]], ...] = (
    ("q1", "ann", 1000, ["a", "b", "c"]),
    ("q2", "ann", 1200, ["b", "d"]),
    ("q3", "bob", 1100, []),
)


def exposed(*rows: tuple[str, str, int, list[str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"request_id": request, "unit": unit, "time_ms": time, "items": items, "arm": "control"}
            for request, unit, time, items in rows
        ],
        EXPOSURES,
    )


def clicked(*rows: tuple[str | None, str, str, int], kind: str = "click") -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"request_id": request, "unit": unit, "item": item, "time_ms": time, "type": kind, "value": 1.0}
            for request, unit, item, time in rows
        ],
        INTERACTIONS,
    )


def attributed(interactions: pl.DataFrame, **given: Any) -> Attribution:
    return attribute(exposed(*SHOWN), interactions, ClickRule(), WINDOW, START, **given)


def counts(joined: Attribution) -> dict[str, int]:
    return {name: count for name, count in asdict(joined.counts).items() if count}


def test_a_click_has_the_position_of_its_item() -> None:
    joined = attributed(clicked(("q1", "ann", "c", 1500), ("q2", "ann", "b", 1201)))
    assert joined.clicks.rows() == [("q1", "c", 2, 1500), ("q2", "b", 0, 1201)]
    assert counts(joined) == {"interactions": 2, "attributed": 2}


@pytest.mark.parametrize(
    ("row", "fate"),
    [
        (("q1", "ann", "a", 1501), "late"),
        (("q2", "ann", "b", 1199), "early"),
        (("q9", "ann", "a", 1001), "unknown_request"),
        (("q1", "ann", "d", 1001), "not_shown"),
        (("q3", "bob", "a", 1101), "not_shown"),
        ((None, "ann", "a", 1001), "no_request"),
        (("q1", "ann", "a", 999), "before"),
    ],
)
def test_a_click_that_does_not_count_is_counted_as_what_it_is(
    row: tuple[str | None, str, str, int], fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "CLOCKS_DIFFER_MS", 0)
    joined = attributed(clicked(row))
    assert not joined.clicks.height
    assert counts(joined) == {"interactions": 1, fate: 1}


def test_a_click_may_be_a_little_early_because_clocks_differ() -> None:
    assert attributed(clicked(("q2", "ann", "b", 1199))).clicks.rows() == [("q2", "b", 0, 1199)]


def test_the_same_event_again_is_a_duplicate_and_another_type_is_not_another_click() -> None:
    again = clicked(("q1", "ann", "a", 1002), ("q1", "ann", "a", 1001), ("q1", "ann", "a", 1001))
    joined = attributed(pl.concat([again, clicked(("q1", "ann", "a", 1003), kind="buy")]))
    assert joined.clicks.rows() == [("q1", "a", 0, 1001)]
    assert counts(joined) == {"interactions": 4, "attributed": 2, "duplicates": 2}


def test_a_click_of_another_unit_counts_and_is_told() -> None:
    joined = attributed(clicked(("q1", "bob", "a", 1001)))
    assert counts(joined) == {"interactions": 1, "attributed": 1, "other_unit": 1}


def test_the_rule_says_what_a_click_is() -> None:
    rows = pl.DataFrame({"type": ["click", "buy", "view", "buy"], "value": [1.0, 4.0, 9.0, None]})
    for rule, expected in (
        (ClickRule(), [True, True, True, True]),
        (ClickRule(types=frozenset({"click", "buy"})), [True, True, False, True]),
        (ClickRule(types=frozenset({"buy"}), least_value=4.0), [False, True, False, False]),
    ):
        assert rows.select(is_click(rule).alias("is")).to_series().to_list() == expected
    joined = attribute(exposed(*SHOWN), clicked(("q1", "ann", "a", 1001)), ClickRule(least_value=2.0), WINDOW, START)
    assert counts(joined) == {"interactions": 1, "no_click": 1}


def test_a_click_without_request_goes_to_the_units_latest_exposure_of_the_item() -> None:
    rows = clicked(
        (None, "ann", "b", 1150),
        (None, "ann", "b", 1250),
        (None, "ann", "a", 1501),
        (None, "bob", "a", 1101),
        ("q2", "ann", "b", 1300),
    )
    joined = attributed(rows, without_request=True)
    assert joined.clicks.rows() == [("q1", "b", 1, 1150), ("q2", "b", 0, 1250)]
    assert counts(joined) == {"interactions": 5, "attributed": 2, "duplicates": 1, "no_request": 2}


def test_a_request_that_was_logged_again_counts_once() -> None:
    again = exposed(("q1", "ann", 1300, ["x"]), *SHOWN, SHOWN[0])
    assert_frame_equal(first_of_requests(again), exposed(*SHOWN))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["q1", "q2", "q3", "q9", None]),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from("abcd"),
        st.integers(900, 1900),
    ),
    max_size=12,
)


@EXAMPLES
@given(EVENTS, st.booleans(), st.randoms(use_true_random=False))
def test_every_interaction_has_one_fate_whatever_the_order(
    events: list[tuple[str | None, str, str, int]], without_request: bool, random: Any
) -> None:
    joined = attributed(clicked(*events), without_request=without_request)
    fates = asdict(joined.counts)
    assert sum(fates.values()) - fates["other_unit"] == 2 * len(events)
    mixed = random.sample(events, len(events))
    other = attributed(clicked(*mixed), without_request=without_request)
    assert_frame_equal(joined.clicks, other.clicks)
    assert joined.counts == other.counts


@EXAMPLES
@given(EVENTS)
def test_what_arrives_twice_changes_nothing(events: list[tuple[str | None, str, str, int]]) -> None:
    joined, doubled = attributed(clicked(*events)), attributed(clicked(*events, *events))
    assert_frame_equal(joined.clicks, doubled.clicks)
    assert joined.counts.attributed == doubled.counts.attributed
