"""The report of a training as a page, report.html beside report.json: figures, tables and what a person has to see.
All of it comes from the report. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from offline.data.catalogue import DataError
from offline.data.files import write_bytes
from offline.metrics import in_words
from offline.pages import BLUE, GREY, INK, ORANGE, ROW_INCHES, figure, moment, render
from offline.training.report import PAGE_FILE, TrainingReport
from offline.training.scores import BUCKETS

if TYPE_CHECKING:
    from offline.pages import Axes

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_MEASURES = {"auc": "AUC", "logloss": "LogLoss"}


def write_page(report: TrainingReport, folder: Path) -> Path | None:
    """Write ``folder/report.html``. None, with the reason on standard output, if that fails: a training does not end
    for the sake of its page, and no page of an earlier one stays."""
    path = folder / PAGE_FILE
    try:
        write_bytes(path, page(report).encode())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the page, the model is right
        path.unlink(missing_ok=True)
        print(f"no page of this training: {type(error).__name__}: {error}")
        return None
    return path


def page(report: TrainingReport) -> str:
    """The page of a training, without figures if matplotlib is not installed."""
    try:
        figures, missing = svg_figures(report), ""
    except DataError as reason:
        figures, missing = {}, str(reason)
    table, served = report.table, report.table[0]
    return render(
        _TEMPLATE,
        report=report,
        figures={**dict.fromkeys(("rivals", "calibration", "epochs", "slices", "importance"), ""), **figures},
        missing=missing,
        served=served["model"],
        ece=any("ece" in row for row in table),
        rivals={row["model"]: row for row in report.rivals},
        tree=any("tree" in row for row in report.slices),
        show={"moment": moment, "measure": in_words, "bounds": _bounds, "number": _number},
    )


def svg_figures(report: TrainingReport) -> dict[str, str]:
    """SVG by name, of what the report has. DataError if matplotlib is not installed."""
    figures: dict[str, str] = {}
    for name, rows, of_row, says in (
        ("rivals", report.rivals, "model", "served model minus the other"),
        ("importance", report.importance, "group", ""),
    ):
        shown = [row for row in rows if any(row[measure] for measure in _MEASURES)]
        if shown:
            names = [row[of_row] for row in shown]
            panels = [
                partial(_plot_intervals, names, [row[measure] for row in shown], _axis(name, measure, says))
                for measure in _MEASURES
            ]
            figures[name] = figure((9.0, 0.9 + ROW_INCHES * len(shown)), 2, panels)
    if report.calibration:
        panels = [partial(_plot_calibration, report.calibration), partial(_plot_histogram, report.histogram)]
        figures["calibration"] = figure((9.0, 3.2), 2, panels)
    measures = [measure for measure in ("logloss", "auc") if len(report.epochs) > 1 and measure in report.epochs[0]]
    if measures:
        panels = [partial(_plot_epochs, report.epochs, measure) for measure in measures]
        figures["epochs"] = figure((4.5 * len(measures), 2.6), len(measures), panels)
    if any(row["auc"] is not None for row in report.slices):
        figures["slices"] = figure((8.0, 1.1 + ROW_INCHES * len(report.slices)), 1, [partial(_plot_slices, report)])
    return figures


def _axis(name: str, measure: str, says: str) -> str:
    return f"{_MEASURES[measure]}: {says}" if says else {"auc": "AUC lost", "logloss": "LogLoss gained"}[measure]


def _plot_intervals(names: Sequence[str], changes: Sequence[Sequence[float] | None], label: str, axes: Axes) -> None:
    for row, change in enumerate(reversed(changes)):
        if change is not None:
            middle, low, high = change
            axes.plot([low, high], [row, row], color=BLUE, linewidth=1.6)
            axes.plot([middle], [row], "o", color=BLUE, markersize=5)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    first = axes.get_subplotspec()
    names = [*reversed(names)] if first is None or first.is_first_col() else [""] * len(names)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(label)


def _plot_calibration(buckets: Sequence[Mapping[str, float]], axes: Axes) -> None:
    scores, liked = ([bucket[name] for bucket in buckets] for name in ("score", "liked"))
    most = min(1.05 * max(*scores, *liked), 1.0)
    axes.plot([0, most], [0, most], color=GREY, linewidth=0.8)
    axes.plot(scores, liked, "o-", color=BLUE, linewidth=1.6, markersize=4)
    axes.set_xlabel("mean score of a tenth of the test samples")
    axes.set_ylabel("share liked")


def _plot_histogram(counts: Sequence[int], axes: Axes) -> None:
    axes.bar([(bucket + 0.5) / BUCKETS for bucket in range(len(counts))], counts, 0.9 / BUCKETS, color=GREY)
    axes.set_xlim(0, 1)
    axes.set_xlabel("score")
    axes.set_ylabel("test samples")


def _plot_epochs(epochs: Sequence[Mapping[str, float | None]], measure: str, axes: Axes) -> None:
    values = [float("nan") if (value := epoch.get(measure)) is None else value for epoch in epochs]
    axes.plot(range(1, len(values) + 1), values, "o-", color=BLUE, linewidth=1.6, markersize=4)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {_MEASURES[measure]}")


def _plot_slices(report: TrainingReport, axes: Axes) -> None:
    rows = [*reversed(report.slices)]
    marks = (("auc", "served", "o", BLUE), ("tree", "trees", "D", ORANGE), ("baseline", "baseline", "s", GREY))
    for name, label, marker, color in marks:
        places = [place for place, row in enumerate(rows) if row.get(name) is not None]
        if places:
            axes.plot([rows[place][name] for place in places], places, marker, color=color, label=label, markersize=6)
    axes.set_yticks(range(len(rows)), [f"{row['slice']} ({row['samples']:,})" for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("AUC of the test samples")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _bounds(change: Sequence[float] | None) -> str:
    return "undefined" if change is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*change)


def _number(quantity: float) -> str:
    """Whole numbers with commas, others with four digits."""
    return f"{quantity:,.0f}" if float(quantity).is_integer() else f"{quantity:,.4g}"
