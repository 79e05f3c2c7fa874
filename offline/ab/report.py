"""An analysis as lines for the terminal. The same numbers as the page and the JSON, fewer of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from offline.ab.analysis import Analysis
from offline.ab.effects import Effect

PERCENT = frozenset({"ctr", "degraded_share"})
"""Metrics that are shares."""


def lines(name: str, analysis: Analysis) -> Iterator[str]:
    """Warnings first, then arms, then effects."""
    yield f"{name}: {moment(analysis.first_ms)} to {moment(analysis.last_ms)} UTC, control {analysis.control}"
    for warning in analysis.warnings:
        yield f"  ! {warning}"
    yield ""
    counts = (
        (arm.arm, f"{arm.weight:.1%}", *map(str, (arm.units, arm.requests, arm.shown, arm.clicks)))
        for arm in analysis.arms
    )
    yield from table([("arm", "share", "units", "requests", "shown", "clicks"), *counts])
    yield f"  {split(analysis)}"
    yield ""
    yield from table(
        [("metric", "arm", "control", "arm's", "lift", "interval", "p", "p, any time", "CUPED lift", "verdict")]
        + [_effect(effect, analysis.alpha) for effect in analysis.effects]
    )
    for arm, merged in analysis.interleaving.items():
        unit = merged.per_unit
        yield ""
        yield (
            f"  {arm}: {merged.first} against {merged.second}, units won {unit.wins} : {unit.losses}, "
            f"{unit.ties} ties, share {unit.share:.3f} {span(unit.share_low, unit.share_high)}, "
            f"sign test p = {number(unit.p)}"
        )
    for drawn in analysis.off_policy:
        yield ""
        yield f"  {drawn.arm}: clicks on the first position, {drawn.requests} drawn requests"
        yield from table(
            [("estimator", "clicks per request", "interval", "effective requests")]
            + [(reward.estimator, number(reward.value), span(reward.low, reward.high), f"{reward.effective_rows:.0f}")
               for reward in drawn.values]
        )  # fmt: skip


def split(analysis: Analysis) -> str:
    """Whether units were split as configured."""
    if math.isnan(analysis.ratio.p):
        return "units as configured: cannot be told of so few"
    return f"units as configured: {'NO' if analysis.ratio.alarm else 'yes'}, chi-square p = {number(analysis.ratio.p)}"


def verdict(effect: Effect, alpha: float) -> str:
    """The statement about an effect that holds now: by the p that holds at any time, else by the one that holds at the
    end."""
    if math.isnan(effect.difference.p):
        return "cannot be told"
    good = (effect.difference.absolute > 0) == (effect.better == "higher")
    word = "better" if good else "worse"
    if effect.always_valid.p < alpha:
        return f"{word}, at any time"
    if effect.p_holm < alpha:
        return f"{word}, if this look was planned"
    return "no difference shown"


def _effect(effect: Effect, alpha: float) -> tuple[str, ...]:
    change = effect.difference
    lifts = [
        (signed(part.lift), span(part.lift_low, part.lift_high, percent=True)) if part else ()
        for part in (change, effect.cuped)
    ]
    sides = [value(effect.metric, side) for side in (change.control, change.treatment)]
    p = number(effect.p_holm), number(effect.always_valid.p)
    return (effect.metric, effect.arm, *sides, *lifts[0], *p, " ".join(lifts[1]), verdict(effect, alpha))


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def value(metric: str, measured: float) -> str:
    return "" if math.isnan(measured) else f"{measured:.2%}" if metric in PERCENT else f"{measured:.4g}"


def signed(share: float) -> str:
    return "" if math.isnan(share) else f"{share:+.1%}"


def span(low: float, high: float, percent: bool = False) -> str:
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{low:+.1%}, {high:+.1%}]" if percent else f"[{low:.4g}, {high:.4g}]"


def number(quantity: float) -> str:
    return "" if math.isnan(quantity) else f"{quantity:.3g}"
