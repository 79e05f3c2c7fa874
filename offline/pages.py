"""Pages for people: one HTML file that needs nothing else (no script, no other file), with figures as SVG.

``layout.html.j2`` says what all of them look like; the template of each extends it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from offline.data.catalogue import DataError

if TYPE_CHECKING:  # only who draws needs it installed
    from matplotlib.axes import Axes as Axes

INK, BLUE, ORANGE, GREY = "#24292f", "#0072b2", "#b34d00", "#b3b9c0"
ROW_INCHES = 0.34
"""Height of a row of a figure that has one per name."""


def render(template: Path, **context: Any) -> str:
    """The page of a template, whatever it is given escaped; figures are passed through ``safe`` there."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    )  # fmt: skip
    return environment.get_template(template.name).render(**context)


def figure(size: tuple[float, float], columns: int, panels: Sequence[Callable[[Axes], None]]) -> str:
    """An SVG of ``size`` inches with the panels in rows of ``columns``, the same bytes whenever the same is drawn.
    DataError if matplotlib is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("figures need matplotlib: pip install -e '.[offline]' -c constraints.txt") from error
    with rc_context({"svg.hashsalt": "lorank", "svg.fonttype": "none", "font.size": 9, "text.color": INK}):
        drawing = Figure(figsize=size, layout="constrained")
        axes = drawing.subplots(-(-len(panels) // columns), columns, squeeze=False)
        for cell, panel in zip(axes.flat, panels, strict=False):
            cell.spines[["top", "right"]].set_visible(False)
            panel(cell)
        for cell in list(axes.flat)[len(panels) :]:
            cell.set_visible(False)
        svg = io.StringIO()
        drawing.savefig(svg, format="svg", metadata={"Date": None})
    text = svg.getvalue()
    return text[text.index("<svg") :]


def moment(time_ms: int) -> str:
    """A time in unix milliseconds, as a minute of UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
