"""An analysis as lines for the terminal. The same numbers as the page and the JSON, fewer of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from offline.ab.effects import Effect
from offline.ab.findings import Analysis

PERCENT = frozenset({"ctr", "degraded_share"})
"""Metrics that are shares."""


def lines(name: str, found: Analysis) -> Iterator[str]:
    """Warnings first, then arms, then effects."""
    yield f"{name}: {moment(found.first_ms)} to {moment(found.last_ms)} UTC, control {found.control}"
    for one in found.warnings:
        yield f"  ! {one}"
    yield ""
    yield from table(
        [("arm", "share", "units", "requests", "shown", "clicks")]
        + [
            (one.arm, f"{one.weight:.1%}", str(one.units), str(one.requests), str(one.shown), str(one.clicks))
            for one in found.arms
        ]
    )
    yield f"  {split(found)}"
    yield ""
    yield from table(
        [("metric", "arm", "control", "arm's", "lift", "interval", "p", "p, any time", "CUPED lift", "verdict")]
        + [_effect(one, found.alpha) for one in found.effects]
    )
    for arm, merged in found.interleaving.items():
        unit = merged.per_unit
        yield ""
        yield (
            f"  {arm}: {merged.first} against {merged.second}, units won {unit.wins} : {unit.losses}, "
            f"{unit.ties} ties, share {unit.share:.3f} {span(unit.share_low, unit.share_high)}, "
            f"sign test p = {number(unit.p)}"
        )
    for drawn in found.off_policy:
        yield ""
        yield f"  {drawn.arm}: clicks on the first position, {drawn.requests} drawn requests"
        yield from table(
            [("estimator", "clicks per request", "interval", "effective requests")]
            + [
                (one.estimator, number(one.value), span(one.low, one.high), f"{one.effective_rows:.0f}")
                for one in drawn.values
            ]
        )


def split(found: Analysis) -> str:
    """Whether units were split as configured."""
    if math.isnan(found.ratio.p):
        return "units as configured: cannot be told of so few"
    return f"units as configured: {'NO' if found.ratio.alarm else 'yes'}, chi-square p = {number(found.ratio.p)}"


def verdict(one: Effect, alpha: float) -> str:
    """What may be said of an effect now: by the p that holds at any time, else by the one that holds at the end."""
    if math.isnan(one.difference.p):
        return "cannot be told"
    good = (one.difference.absolute > 0) == (one.better == "higher")
    word = "better" if good else "worse"
    if one.always_valid.p < alpha:
        return f"{word}, at any time"
    if one.p_holm < alpha:
        return f"{word}, if this look was planned"
    return "no difference shown"


def _effect(one: Effect, alpha: float) -> tuple[str, ...]:
    found = one.difference
    cuped = (
        "" if one.cuped is None else f"{signed(one.cuped.lift)} {span(one.cuped.lift_low, one.cuped.lift_high, True)}"
    )
    return (
        one.metric,
        one.arm,
        value(one.metric, found.control),
        value(one.metric, found.treatment),
        signed(found.lift),
        span(found.lift_low, found.lift_high, percent=True),
        number(one.p_holm),
        number(one.always_valid.p),
        cuped,
        verdict(one, alpha),
    )


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def value(metric: str, one: float) -> str:
    return "" if math.isnan(one) else f"{one:.2%}" if metric in PERCENT else f"{one:.4g}"


def signed(share: float) -> str:
    return "" if math.isnan(share) else f"{share:+.1%}"


def span(low: float, high: float, percent: bool = False) -> str:
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{low:+.1%}, {high:+.1%}]" if percent else f"[{low:.4g}, {high:.4g}]"


def number(one: float) -> str:
    return "" if math.isnan(one) else f"{one:.3g}"
