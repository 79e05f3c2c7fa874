"""Interleaving: whose items were clicked, request by request and unit by unit."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.ab.inputs import EXPOSURES
from offline.ab.interleaving import interleaving, outcome
from tests.offline.ab.examples import EXAMPLES


def answers(*rows: tuple[str, str, list[str] | None]) -> pl.DataFrame:
    records = [{"request_id": request, "unit": unit, "teams": teams} for request, unit, teams in rows]
    return pl.DataFrame(records, EXPOSURES)


def clicked(*rows: tuple[str, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, {"request_id": pl.String(), "position": pl.Int64()}, orient="row")


TEAMS = answers(
    ("q1", "ann", ["new", "old", "new", ""]),
    ("q2", "ann", ["old", "new"]),
    ("q3", "bob", ["new", "old"]),
    ("q4", "cid", ["old", "new"]),
)


def test_wins_by_hand() -> None:
    clicks = clicked(("q1", 0), ("q1", 2), ("q1", 1), ("q1", 3), ("q1", 9), ("q2", 0), ("q4", 0), ("q9", 0))
    merged = interleaving(TEAMS, clicks, "new", "old")
    assert (merged.first_clicks, merged.second_clicks) == (2, 3)
    assert (merged.per_request.wins, merged.per_request.losses, merged.per_request.ties) == (1, 2, 1)
    assert (merged.per_unit.wins, merged.per_unit.losses, merged.per_unit.ties) == (0, 1, 2)
    assert merged.per_request.preference == pytest.approx((1 + 1 / 2) / 4 - 0.5)


def test_other_teams_are_refused() -> None:
    with pytest.raises(ValueError, match="teams other than 'new' and 'odd': old"):
        interleaving(TEAMS, clicked(), "new", "odd")


def test_without_clicks_nothing_is_decided() -> None:
    wins = interleaving(TEAMS, clicked(), "new", "old").per_unit
    assert (wins.ties, wins.p, wins.preference) == (3, 1.0, 0.0)
    assert math.isnan(wins.share)
    assert math.isnan(outcome(np.array([]), np.array([])).preference)


def test_the_sign_test_is_exact() -> None:
    sign_test = outcome(np.array([1] * 9 + [0] * 4), np.array([0] * 9 + [2] + [0] * 3))
    assert sign_test.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert sign_test.share == pytest.approx(0.9)
    assert sign_test.share_low < 0.6 < 0.9 < sign_test.share_high < 1
    assert outcome(np.ones(3), np.zeros(3), alpha=0.5).share_low == pytest.approx(0.25 ** (1 / 3))


COUNTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)


@EXAMPLES
@given(COUNTS)
def test_swapping_the_teams_flips_the_sign(counts: list[tuple[int, int]]) -> None:
    won, lost = np.array(counts).T
    there, back = outcome(won, lost), outcome(lost, won)
    assert there.preference == pytest.approx(-back.preference)
    assert there.p == pytest.approx(back.p)
    assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
    assert there.share_low == pytest.approx(1 - back.share_high, nan_ok=True)


def significant(random: np.random.Generator, experiments: int, better: float) -> float:
    """Share of experiments of 200 units that find the first team better or worse."""
    won, lost = random.poisson(0.3, (2, experiments, 200))
    won += random.binomial(1, better, won.shape)
    return float(np.mean([outcome(*pair).p < 0.05 for pair in zip(won, lost, strict=True)]))


def test_equal_teams_win_significantly_in_at_most_five_percent_and_better_ones_mostly() -> None:
    random = np.random.default_rng(2)
    assert 0.02 < significant(random, 600, 0.0) <= 0.055
    assert significant(random, 100, 0.25) > 0.9
