"""Bounds of an interaction's time that every door shares: the API, files, and streams. Unix milliseconds."""

from __future__ import annotations

EARLIEST_MS = 100_000_000_000
"""March 1973. Below it lie 0, a clock that was never set, and times in seconds, which do not reach it before 5138. The
API refuses what is earlier. Files may hold old times and counters: there only what lies far from all others is wrong.
"""

AHEAD_MS = 86_400_000
"""A day: how far in the future a time may lie, for clocks that run ahead and times without a zone."""

LIMIT_MS = 2**53
"""No time is as late: beyond it a JSON number is not exact."""


def latest_ms(now_ms: int) -> int:
    """The latest time that is believed at ``now_ms``."""
    return now_ms + AHEAD_MS
