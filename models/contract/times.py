"""Bounds of an interaction's time that every door shares: the API, files, and streams. Unix milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EARLIEST_MS = 100_000_000_000
"""March 1973. Below it lie 0, a clock that was never set, and times in seconds, which do not reach it before 5138. The
API refuses what is earlier. Files may hold old times and counters: there only what lies far from all others is wrong.
"""

AHEAD_MS = 86_400_000
"""A day: how far in the future a time may lie, for clocks that run ahead and times without a zone."""

LIMIT_MS = 2**53
"""No time is as late: beyond it a JSON number is not exact."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FINER = {1_000: "microseconds", 1_000_000: "nanoseconds"}


def latest_ms(now_ms: int) -> int:
    """The latest time that is believed at ``now_ms``."""
    return now_ms + AHEAD_MS


def time_fault(time_ms: int, now_ms: int) -> str | None:
    """Words on a time out of bounds, with a hint at the unit that it may be in; None for a possible time."""
    if time_ms < EARLIEST_MS:
        likely = EARLIEST_MS <= time_ms * 1000 <= latest_ms(now_ms)
        hint = "; it looks like seconds, multiply it by 1,000" if likely else ""
        return f"{time_ms} milliseconds are {_day(time_ms)}, and no time is before {_day(EARLIEST_MS)}{hint}"
    if time_ms <= latest_ms(now_ms):
        return None
    finer = [unit for parts, unit in _FINER.items() if EARLIEST_MS <= time_ms // parts <= latest_ms(now_ms)]
    hint = f"; it looks like {finer[0]}" if finer else ""
    return f"{time_ms} milliseconds are {_day(time_ms)}, more than a day in the future{hint}"


def _day(time_ms: int) -> str:
    """The date in UTC, or the year beyond those that dates have."""
    try:
        return str((_EPOCH + timedelta(milliseconds=time_ms)).date())
    except OverflowError:
        return f"a day of the year {1970 + time_ms // 31_556_952_000}"
