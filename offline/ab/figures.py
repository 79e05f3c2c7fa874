"""Figures of an analysis as SVG texts: all effects with their intervals, and how each effect developed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from offline.ab.effects import Effect
from offline.ab.findings import Analysis
from offline.data.catalogue import DataError

if TYPE_CHECKING:  # only who draws needs it installed
    from matplotlib.axes import Axes

_INK, _FIXED, _ALWAYS = "#24292f", "#0072b2", "#b3b9c0"
_ROW_INCHES = 0.34
_LINEAR = 10.0
"""Percent up to which the axis of lifts is linear; beyond, it is logarithmic."""


def drawn(found: Analysis) -> dict[str, str]:
    """SVG by name: "effects", and "looks" if there is more than one. DataError if matplotlib is not installed."""
    effects = [one for one in found.effects if not math.isnan(one.difference.lift_low)]
    figures: dict[str, str] = {}
    if effects:
        figures["effects"] = _figure((7.5, 1.0 + _ROW_INCHES * len(effects)), 1, [lambda axes: _effects(axes, effects)])
    followed = [one for one in effects if sum(not math.isnan(look.always_valid.low) for look in one.looks) > 1]
    if followed:
        rows = -(-len(followed) // 2)
        panels: list[Callable[[Axes], None]] = [lambda axes, one=one: _looks(axes, one) for one in followed]  # type: ignore[misc]
        figures["looks"] = _figure((7.5, 2.1 * rows), 2, panels)
    return figures


def _effects(axes: Axes, effects: Sequence[Effect]) -> None:
    for row, one in enumerate(reversed(effects)):
        lift = one.difference
        if lift.control:
            low, high = (100 * bound / lift.control for bound in (one.always_valid.low, one.always_valid.high))
            axes.plot([low, high], [row, row], color=_ALWAYS, linewidth=5, solid_capstyle="butt")
        axes.plot([100 * lift.lift_low, 100 * lift.lift_high], [row, row], color=_FIXED, linewidth=1.6)
        axes.plot([100 * lift.lift], [row], "o", color=_FIXED, markersize=5)
    axes.axvline(0.0, color=_INK, linewidth=0.8)
    axes.set_yticks(range(len(effects)), [f"{one.metric}, {one.arm}" for one in reversed(effects)])
    axes.set_xscale("symlog", linthresh=_LINEAR)  # a rare outcome's interval would squeeze all others
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("lift over control in percent; wide: holds at any time, thin: at the planned end")


def _looks(axes: Axes, one: Effect) -> None:
    looks = [look for look in one.looks if not math.isnan(look.always_valid.low)]
    times = [datetime.fromtimestamp(look.time_ms / 1000, UTC) for look in looks]
    axes.fill_between(
        times, [look.always_valid.low for look in looks], [look.always_valid.high for look in looks],  # type: ignore[arg-type]
        color=_ALWAYS, alpha=0.6, linewidth=0,
    )  # fmt: skip
    axes.plot(times, [look.absolute for look in looks], color=_FIXED, linewidth=1.6)  # type: ignore[arg-type]
    axes.axhline(0.0, color=_INK, linewidth=0.8)
    axes.set_title(f"{one.metric}, {one.arm}", fontsize=9)
    axes.tick_params(axis="x", labelrotation=25, labelsize=7)


def _figure(size: tuple[float, float], columns: int, panels: Sequence[Callable[[Axes], None]]) -> str:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("figures need matplotlib: pip install -e '.[benchmark]' -c constraints.txt") from error
    with rc_context({"svg.hashsalt": "lorank", "svg.fonttype": "none", "font.size": 9, "text.color": _INK}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
        for one, panel in zip(axes.flat, panels, strict=False):
            one.spines[["top", "right"]].set_visible(False)
            panel(one)
        for one in list(axes.flat)[len(panels) :]:
            one.set_visible(False)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]
