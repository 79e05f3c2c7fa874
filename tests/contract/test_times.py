"""Times of interactions: bounds, and the hint at the unit of those beyond them."""

from __future__ import annotations

import re

import pytest

from models.contract.times import AHEAD_MS, EARLIEST_MS, time_fault

NOW = 1_790_000_000_000


@pytest.mark.parametrize("time_ms", [EARLIEST_MS, NOW, NOW + AHEAD_MS, 893_286_638_000])
def test_possible_times(time_ms: int) -> None:
    assert time_fault(time_ms, NOW) is None


@pytest.mark.parametrize(
    ("time_ms", "says"),
    [
        (0, "1970-01-01, and no time is before 1973-03-03"),
        (EARLIEST_MS - 1, "are 1973-03-03"),
        (NOW // 1000, "are 1970-01-21.*; it looks like seconds"),
        (17, "are 1970-01-01"),
        (-5, "are 1969-12-31"),
        (NOW + AHEAD_MS + 1, "more than a day in the future$"),
        (100_000_000_000_000, "are 5138-11-16, more than a day in the future"),
        (NOW * 1000, "year 58.*; it looks like microseconds"),
        (NOW * 1_000_000, "; it looks like nanoseconds"),
        (2**53 - 1, "year 287396.*in the future$"),
    ],
)
def test_times_out_of_bounds_are_told_with_their_likely_unit(time_ms: int, says: str) -> None:
    fault = time_fault(time_ms, NOW)
    assert fault is not None
    assert re.search(says, fault), fault
