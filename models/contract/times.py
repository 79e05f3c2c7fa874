"""Bounds of the time of an interaction, in unix milliseconds. The same at every door."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EARLIEST_MS = 100_000_000_000
"""3 March 1973. Seconds that are taken for milliseconds lie before it: those of today in January 1970."""

AHEAD_MS = 86_400_000
"""A day: so much may the clock of a caller be ahead."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FINER = {1_000: "microseconds", 1_000_000: "nanoseconds"}


def time_fault(time_ms: int, now_ms: int) -> str | None:
    """Words on a time out of bounds, with a hint at the unit that it may be in; None for a possible time."""
    if time_ms < EARLIEST_MS:
        hint = ""
        if EARLIEST_MS <= time_ms * 1000 <= now_ms + AHEAD_MS:
            hint = "; it looks like seconds, and milliseconds are a thousand times as many"
        return f"{time_ms} milliseconds are {_day(time_ms)}, and no time is before {_day(EARLIEST_MS)}{hint}"
    if time_ms <= now_ms + AHEAD_MS:
        return None
    finer = [
        unit for parts, unit in _FINER.items() if EARLIEST_MS <= time_ms // parts <= now_ms + AHEAD_MS
    ]
    hint = f"; it looks like {finer[0]}" if finer else ""
    return f"{time_ms} milliseconds are {_day(time_ms)}, more than a day in the future{hint}"


def _day(time_ms: int) -> str:
    """The date in UTC, or the year beyond those that dates have."""
    try:
        return str((_EPOCH + timedelta(milliseconds=time_ms)).date())
    except OverflowError:
        return f"a day of the year {1970 + time_ms // 31_556_952_000}"
