"""Figures of docs/performance.md as SVG. The same results give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.serving import scaling
from bench.serving.results import Numbers
from bench.serving.spread import Spread
from offline.data.files import write_bytes
from research.figures import FAINT, OTHERS, OURS, style, svg, with_grid

if TYPE_CHECKING:  # only who draws needs it installed
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(numbers: Mapping[str, Numbers], folder: Path) -> dict[str, str]:
    """Write FOLDER/performance-PART.svg of every part that has a figure. Part -> what it shows, in words."""
    drawings: dict[str, tuple[str, Callable[[Numbers], Figure]]] = {
        "sides": ("Requests per second, beside others", _sides),
        "tails": ("Latency by share of the requests", _tails),
        "profile": ("Where a request's processor time goes", _profile),
        "scaling": ("Processor time per request", _scaling),
        "workers": ("Memory by number of workers", _workers),
    }
    drawn = {}
    with style():
        for part, (label, drawing) in drawings.items():
            if part in numbers:
                write_bytes(folder / f"performance-{part}.svg", svg(drawing(numbers[part])))
                drawn[part] = label
    return drawn


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes: list[Axes] = list(grid.flat)
    for cell in axes:
        with_grid(cell)
    return figure, axes


def _sides(numbers: Numbers) -> Figure:
    """Medians, with whiskers from the smallest to the largest."""
    figure, axes = _figure(7, 4.2, 2, 2)
    for panel, (case, servers) in zip(axes, numbers["cases"].items(), strict=False):
        names = list(reversed(servers))
        rates = [Spread.of([each["requests_per_second"] for each in servers[name]]) for name in names]
        whiskers = [[rate.middle - rate.low for rate in rates], [rate.high - rate.middle for rate in rates]]
        colours = [OURS if name == "ours" else FAINT if name == "bare" else OTHERS for name in names]
        panel.barh(names, [rate.middle for rate in rates], xerr=whiskers, color=colours, error_kw={"linewidth": 0.8})
        count, kind = case.split()
        panel.set_title(f"{count} candidates, {'50' if kind == 'top50' else 'all'} answered", fontsize=9)
        panel.set_xlabel("requests/s")
    return figure


def _tails(numbers: Numbers) -> Figure:
    """Medians of the runs."""
    figure, axes = _figure(7, 3, 1, 2)
    shares = ("p50", "p90", "p99", "p99.9", "max")
    for panel, (count, case) in zip(axes, numbers["cases"].items(), strict=False):
        for spacing, colour in (("constant", OURS), ("poisson", OTHERS)):
            runs = [run for run in case["runs"] if run["arrivals"] == spacing]
            middles = [Spread.of([run[share] for run in runs]).middle for share in shares]
            label = "at even intervals" if spacing == "constant" else "at random"
            panel.plot(shares, middles, "o-", color=colour, markersize=4, linewidth=1, label=label)
        panel.set_title(f"{count} candidates, {case['rate']:.0f} requests/s", fontsize=9)
        panel.set_ylabel("milliseconds")
        panel.set_ylim(bottom=0)
        panel.legend(frameon=False)
    return figure


def _profile(numbers: Numbers) -> Figure:
    """Steps in the order of the largest number of candidates."""
    counts = list(numbers)
    steps = sorted(numbers[counts[-1]]["shares"], key=lambda step: float(numbers[counts[-1]]["shares"][step]))
    figure, axes = _figure(7, 0.28 * len(steps) + 1)
    for at, (count, colour) in enumerate(zip(counts, (OTHERS, OURS), strict=False)):
        case = numbers[count]
        spent = [case["shares"].get(step, 0.0) * case["cpu_ms"] * 1000 for step in steps]
        places = [row + (at - 0.5) * 0.38 for row in range(len(steps))]
        axes[0].barh(places, spent, 0.36, color=colour, label=f"{count} candidates")
    axes[0].set_yticks(range(len(steps)), steps)
    axes[0].set_xlabel("microseconds of processor time per request")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def _scaling(numbers: Numbers) -> Figure:
    """Medians, with whiskers from the smallest to the largest; the line through the cost of candidates."""
    figure, axes = _figure(7, 5, 2, 2)
    labels = {"candidates": "candidates", "events": "events of the user", "items": "items", "users": "users"}
    for panel, (curve, label) in zip(axes, labels.items(), strict=True):
        x, costs = scaling.middles(numbers[curve])
        whiskers = [[cost.middle - cost.low for cost in costs], [cost.high - cost.middle for cost in costs]]
        panel.errorbar(
            x, [cost.middle for cost in costs], yerr=whiskers, fmt="o", color=OURS, markersize=4, linewidth=1
        )
        if curve == "candidates":
            line = scaling.line(numbers)
            ends = [0, max(x)]
            panel.plot(ends, [line.fixed + line.slope * end for end in ends], color=OTHERS, linewidth=1)
        elif curve == "events":
            panel.set_xscale("symlog", linthresh=50)
        else:
            panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.set_ylabel("ms per request")
        panel.set_ylim(bottom=0)
    return figure


def _workers(numbers: Numbers) -> Figure:
    figure, axes = _figure(4, 2.6)
    memory = numbers["memory"]
    axes[0].bar(list(memory), [megabytes["pss"] for megabytes in memory.values()], 0.5, color=OURS)
    axes[0].set_xlabel(f"workers, {numbers['items']:,} items")
    axes[0].set_ylabel("memory (PSS), MB")
    return figure
