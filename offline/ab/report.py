"""An analysis for people: as lines for the terminal, and, with more numbers, as one HTML page that needs nothing else:
no script, no other file. Its figures are SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from offline.ab.analysis import Analysis
from offline.ab.effects import Effect, InterimAnalysis
from offline.pages import BLUE, GREY, INK, ROW_INCHES, figure, moment, render

if TYPE_CHECKING:
    from offline.pages import Axes

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_FIXED, _ALWAYS = BLUE, GREY
_LINEAR = 10.0
"""Percent up to which the axis of lifts is linear; beyond, it is logarithmic."""

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


def page(name: str, analysis: Analysis) -> str:
    """The page of the experiment ``name``. DataError if matplotlib is not installed."""
    figures = svg_figures(analysis)
    return render(
        _TEMPLATE,
        name=name,
        analysis=analysis,
        figures={"effects": "", "looks": "", **figures},
        attribution=asdict(analysis.attribution),
        report={show.__name__: show for show in (moment, number, value, signed, span, verdict)},
    )


def svg_figures(analysis: Analysis) -> dict[str, str]:
    """SVG by name: "effects", and "looks" if there is more than one. DataError if matplotlib is not installed."""
    effects = [effect for effect in analysis.effects if not math.isnan(effect.difference.lift_low)]
    figures: dict[str, str] = {}
    if effects:
        figures["effects"] = figure(
            (7.5, 1.0 + ROW_INCHES * len(effects)), 1, [lambda axes: _plot_effects(axes, effects)]
        )
    followed = [(effect, _certain(effect)) for effect in effects if len(_certain(effect)) > 1]
    if followed:
        panels = [partial(_plot_interim, effect, analyses) for effect, analyses in followed]
        figures["looks"] = figure((7.5, 2.1 * -(-len(followed) // 2)), 2, panels)
    return figures


def _plot_effects(axes: Axes, effects: Sequence[Effect]) -> None:
    for row, effect in enumerate(reversed(effects)):
        lift = effect.difference
        if lift.control:
            low, high = (100 * bound / lift.control for bound in (effect.always_valid.low, effect.always_valid.high))
            axes.plot([low, high], [row, row], color=_ALWAYS, linewidth=5, solid_capstyle="butt")
        axes.plot([100 * lift.lift_low, 100 * lift.lift_high], [row, row], color=_FIXED, linewidth=1.6)
        axes.plot([100 * lift.lift], [row], "o", color=_FIXED, markersize=5)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(effects)), [f"{effect.metric}, {effect.arm}" for effect in reversed(effects)])
    axes.set_xscale("symlog", linthresh=_LINEAR)  # a rare outcome's interval would squeeze all others
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("lift over control in percent; wide: holds at any time, thin: at the planned end")


def _certain(effect: Effect) -> list[InterimAnalysis]:
    return [interim for interim in effect.interim if not math.isnan(interim.always_valid.low)]


def _plot_interim(effect: Effect, analyses: Sequence[InterimAnalysis], axes: Axes) -> None:
    times = [datetime.fromtimestamp(interim.time_ms / 1000, UTC) for interim in analyses]
    low, high = ([getattr(interim.always_valid, bound) for interim in analyses] for bound in ("low", "high"))
    axes.fill_between(times, low, high, color=_ALWAYS, alpha=0.6, linewidth=0)  # type: ignore[arg-type]
    axes.plot(times, [interim.absolute for interim in analyses], color=_FIXED, linewidth=1.6)  # type: ignore[arg-type]
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_title(f"{effect.metric}, {effect.arm}", fontsize=9)
    axes.tick_params(axis="x", labelrotation=25, labelsize=7)
