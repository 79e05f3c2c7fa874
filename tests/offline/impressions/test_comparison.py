"""Two orders of the same clicks: hand-computed values, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from offline.impressions.cautions import Acquaintance, Selection
from offline.impressions.comparison import AUC, FIRST, OrderComparison, compare_orders
from offline.impressions.reading import Impressions
from offline.impressions.report import ImpressionReport, Verdict

Row = tuple[str, str, Sequence[float]]
"""User, clicks in the order shown such as "0100", scores in the same order."""


def compared(rows: Sequence[Row], propensity: Sequence[float | None] | None = None) -> OrderComparison:
    requests = pl.DataFrame(
        {
            "user": [user for user, _, _ in rows],
            "time_ms": list(range(len(rows))),
            "items": [[f"i{at}" for at in range(len(clicks))] for _, clicks, _ in rows],
            "clicked": [[click == "1" for click in clicks] for _, clicks, _ in rows],
            "propensity": pl.Series(propensity or [None] * len(rows), dtype=pl.Float64),
        }
    )
    return compare_orders(requests, [np.array(scores, np.float32) for _, _, scores in rows])


NOTHING_ODD = Acquaintance(0.0, 0.0, 0.0, 0.01, 0.01)


def report_of(
    comparison: OrderComparison, selection: Selection | None = None, known: Acquaintance = NOTHING_ODD
) -> ImpressionReport:
    empty = Impressions(pl.DataFrame(), ("user: 'user', ids",), ())
    chosen = selection or Selection(comparison.requests, 0, 0, 0, 0, False)
    return ImpressionReport(Path("shown.csv"), "m 1", 0, empty, chosen, known, comparison)


def users(rows: Sequence[tuple[str, Sequence[float]]], count: int = 20) -> list[Row]:
    """The same requests of so many users."""
    return [(f"u{at}", clicks, scores) for at in range(count) for clicks, scores in rows]


def test_hand_computed_values() -> None:
    both = compared([("a", "0100", [1, 4, 3, 2]), ("a", "1010", [1, 2, 4, 3]), ("b", "000", [1, 2, 3])])
    assert (both.requests, both.users, both.items, both.clicks, both.judged, both.judged_users) == (3, 2, 11, 3, 2, 1)
    # Shown: 2 of 3 pairs, and 3 of 4. The model's places are 3 0 1 2, and 3 2 0 1: all pairs, and 2 of 4.
    area, first = both.of(AUC), both.of(FIRST)
    assert area.shown == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert area.model == pytest.approx((1 + 1 / 2) / 2)
    assert (first.shown, first.model) == (0.5, 1.0)
    reciprocal = both.of("MRR")
    assert (reciprocal.shown, reciprocal.model) == ((1 / 2 + 1) / 2, 1.0)
    ideal = 1 + 1 / math.log2(3)
    gain = both.of("NDCG@10")
    assert gain.shown == pytest.approx((1 / math.log2(3) + 1.5 / ideal) / 2)
    assert gain.model == pytest.approx((1 + (1 + 1 / math.log2(5)) / ideal) / 2)
    assert both.of("clicks in the first 3 places").shown == 1.5
    # Clicks move from 1 to 0, from 0 to 3 and from 2 to 0.
    assert (both.moved.up, both.moved.same, both.moved.down) == (2, 0, 1)
    assert both.moved.places.middle == pytest.approx(0.0)
    assert not both.has_intervals
    assert math.isnan(area.difference.low)


def test_equal_scores_keep_the_order_shown() -> None:
    both = compared(users([("0110", [0.5] * 4), ("10", [0.1, 0.1])]))
    assert all(measure.shown == measure.model for measure in both.measures)
    assert (both.moved.up, both.moved.down) == (0, 0)
    assert report_of(both).verdict() is Verdict.NONE


def test_an_interval_is_over_users() -> None:
    draw = np.random.default_rng(0)
    rows = [(f"u{at // 3}", "0010", draw.random(4).tolist()) for at in range(90)]
    gain = compared(rows).of(AUC).difference
    again = compared([row for row in rows for _ in range(20)]).of(AUC).difference
    assert gain.low < gain.middle < gain.high
    assert again.high - again.low == pytest.approx(gain.high - gain.low, rel=1e-6), "more of the same says no more"


def test_a_sentence_says_what_would_be_gained_and_what_to_do() -> None:
    up, down = ("0001", [1, 2, 3, 4]), ("1000", [1, 2, 3, 4])
    gained = report_of(compared(users([up, up, ("0100", [1, 2, 4, 3])])))
    assert gained.verdict() is Verdict.GAIN
    assert gained.sentence().startswith("You would gain by the model: of the pairs of a clicked and an unclicked item")
    assert "A/B experiment" in gained.sentence()
    lost = report_of(compared(users([down, down, up])))
    assert lost.verdict() is Verdict.LOSS
    assert "the shown order is ahead" in lost.sentence()
    few = report_of(compared(users([up], count=9)))
    assert few.verdict() is Verdict.UNKNOWN
    assert "9 users have requests with clicked and unclicked items, and 10 are needed" in few.sentence()
    even = report_of(compared([(f"u{at}", *(up if at % 2 else down)) for at in range(20)]))
    assert (even.verdict(), "reaches 0" in even.sentence()) == (Verdict.NONE, True)
    none = report_of(compared(users([("000", [1, 2, 3])])))
    assert (none.verdict(), none.comparison.measures) == (Verdict.UNKNOWN, ())
    for report in (gained, lost, few, even, none):
        *_, bias, last = report.lines()
        assert bias.startswith("People click what they see first")
        assert last == report.sentence() == report.document()["sentence"]


def test_propensities_weigh_what_the_model_would_have_put_first() -> None:
    """The logging policy puts either item first with 0.8 and 0.2; the one of the rare place is always clicked."""
    draw = np.random.default_rng(1)
    rows, chances = [], []
    for at in range(400):
        rare = draw.random() < 0.2
        rows.append((f"u{at}", "10" if rare else "01", [2.0, 1.0] if rare else [1.0, 2.0]))
        chances.append(0.2 if rare else 0.8)
    both = compared(rows, chances)
    shown, weighted, normalised = both.first_place
    assert shown.value == pytest.approx(0.2, abs=0.05)
    assert weighted.value == pytest.approx(1.0, abs=0.2)
    assert normalised.value == 1.0
    assert sum(line.startswith("  model,") for line in report_of(both).lines()) == 2
    partly = compared(rows, [None, *chances[1:]])
    assert partly.first_place[0].rows == 399
    odd = report_of(compared(rows, [0.8] * 400))
    assert any("weights by propensity average" in note for note in odd.notes())
    assert compared(rows).first_place == ()


def test_notes_say_what_is_left_out() -> None:
    both = compared(users([("01", [1, 2])]))
    notes = " ".join(report_of(both, Selection(100, 5, 40, 35, 3, False)).notes())
    assert "5 of 100 requests are left out: they come before the log begins" in notes
    assert "40 of 100 requests come before the end of training (1970-01-01 00:00)" in notes
    assert "left out; --with-trained takes them" in notes
    assert "35 requests are left out, of users drawn by chance; --most-requests takes more" in notes
    assert "3 requests come after the last event of the log" in notes
    odd = " ".join(report_of(both, known=Acquaintance(0.5, 0.0, 0.0, 0.8, 0.1)).notes())
    assert "50.0% of the items are unknown" in odd
    assert "80% of the clicked items are in an event of their user of the day before, and 10% of the others" in odd
    assert "compared all the same" in " ".join(report_of(both, Selection(100, 0, 40, 0, 0, True)).notes())
