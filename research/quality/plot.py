"""Figures of an evaluation as SVG: AUC against scoring time, reliability, AUC against the share of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from offline.data.files import write_bytes
from research.figures import FAINT, OTHERS, OURS, REFERENCE, style, svg, with_grid
from research.quality.evaluation import Candidate, Evaluation, SharePoint, percent
from research.quality.predictions import Family
from research.quality.published import GOALS

if TYPE_CHECKING:  # only who draws needs it installed
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: dict[Family, str] = {"ours": OURS, "peer": OTHERS, "reference": REFERENCE}
_MARKERS = "osD^vP*X"
_LABEL_INCHES = 0.17


def drawable(evaluation: Evaluation) -> tuple[str, ...]:
    """Names of the figures that there are numbers for."""
    reliable = evaluation.row(evaluation.chosen) or evaluation.row(evaluation.best_peer)
    timed = any(row.ms_per_500 for row in evaluation.rows)
    there = {"auc-ms": timed, "reliability": reliable, "share": evaluation.shares}
    return tuple(name for name, numbers in there.items() if numbers)


def draw(evaluation: Evaluation, folder: Path, stem: str = "quality") -> tuple[Path, ...]:
    """Write ``FOLDER/STEM-NAME.svg`` of every drawable figure. DataError if matplotlib is not installed."""
    drawings = {"auc-ms": _auc_ms, "reliability": _reliability, "share": _share}
    written = []
    for name in drawable(evaluation):
        with style():
            write_bytes(path := folder / f"{stem}-{name}.svg", svg(drawings[name](evaluation)))
        written.append(path)
    return tuple(written)


def _axes(height: float, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, height), facecolor="white")
    axes = with_grid(figure.add_subplot())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _auc_ms(evaluation: Evaluation) -> Figure:
    """Medians with quartiles across, means with the standard deviation over seeds upwards."""
    timed = [(row, row.ms_per_500) for row in evaluation.rows if row.ms_per_500]
    height = max(3.5, _LABEL_INCHES * len(timed) + 1)
    figure, axes = _axes(height, "milliseconds to score 500 candidates", f"AUC ({evaluation.split})")
    axes.set_xscale("log")
    _plain_ticks(axes)
    for row, ms in timed:
        colour = _COLOURS[row.family]
        axes.errorbar(
            ms.middle,
            row.auc.middle,
            xerr=[[ms.middle - ms.low], [ms.high - ms.middle]],
            yerr=row.auc.deviation or 0.0,
            fmt="o",
            color=colour,
            markerfacecolor="white" if row.candidate.statistics == "live" else colour,
            markersize=5,
            elinewidth=1,
        )
    if goal := GOALS.get(evaluation.name):
        axes.axhline(goal.auc, color=FAINT, linestyle="--", linewidth=1)
        axes.annotate(
            "goal", (0.0, goal.auc), xycoords=("axes fraction", "data"), xytext=(3, 2), textcoords="offset points"
        )
    points = [(str(row.candidate), ms.middle, row.auc.middle, _COLOURS[row.family]) for row, ms in timed]
    _label(axes, points, height)
    return figure


def _reliability(evaluation: Evaluation) -> Figure:
    """Scores against outcomes, in bins of equal mass; of our chosen model and of the best peer."""
    figure, axes = _axes(4.5, "mean score of the bin", "share of positives in the bin")
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
    axes.set_aspect("equal")
    rows = [row for row in (evaluation.row(evaluation.chosen), evaluation.row(evaluation.best_peer)) if row]
    for row, marker in zip(rows, _MARKERS, strict=False):
        label = f"{row.candidate} (ECE {row.ece.middle:.4f})"
        bins = row.reliability
        colour = _COLOURS[row.family]
        axes.plot(bins.centres, bins.observed, marker=marker, markersize=4, linewidth=1, color=colour, label=label)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _share(evaluation: Evaluation) -> Figure:
    """A line per model; bars are the standard deviation over seeds."""
    lines: dict[Candidate, list[SharePoint]] = {}
    for point in evaluation.shares:
        lines.setdefault(Candidate(point.candidate.model, point.candidate.statistics), []).append(point)
    height = max(3.5, _LABEL_INCHES * len(lines) + 1)
    figure, axes = _axes(height, "training rows", f"AUC ({evaluation.split})")
    axes.set_xscale("log")
    points = []
    for at, (candidate, of_model) in enumerate(lines.items()):
        colour = _COLOURS[of_model[0].family]
        axes.errorbar(
            [point.candidate.share for point in of_model],
            [point.auc.middle for point in of_model],
            yerr=[point.auc.deviation or 0.0 for point in of_model],
            fmt=_MARKERS[at % len(_MARKERS)],
            linestyle="--" if candidate.statistics == "live" else "-",
            color=colour,
            markersize=5,
            linewidth=1,
        )
        points.append((str(candidate), of_model[-1].candidate.share, of_model[-1].auc.middle, colour))
    shares = sorted({point.candidate.share for point in evaluation.shares})
    axes.set_xticks(shares, [percent(share) for share in shares])
    axes.set_xticks([], minor=True)
    _label(axes, points, height)
    return figure


def _plain_ticks(axes: Axes) -> None:
    """2, 5 and 10 of each decade, not as powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(axes: Axes, points: Sequence[tuple[str, float, float, str]], height: float) -> None:
    """Names of (name, x, y, colour) in a column on the right, led to their points, so that none covers another."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # or it would still move
    points = sorted(points, key=lambda point: (point[2], point[0]))
    heights = [(y - low) / (high - low) for _, _, y, _ in points]
    for (name, x, y, colour), place in zip(points, spaced(heights, 1.25 * _LABEL_INCHES / height), strict=True):
        axes.annotate(
            name,
            (x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "alpha": 0.6},
        )


def spaced(heights: Sequence[float], gap: float) -> list[float]:
    """Rising places near the rising ``heights``, at least ``gap`` apart; below 1 if there is room from 0 on."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + gap) if places else height)
    ceiling = max(1.0, gap * (len(places) - 1))
    for at in reversed(range(len(places))):
        places[at] = min(places[at], ceiling)
        ceiling = places[at] - gap
    return places
