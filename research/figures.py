"""The one style of figures of studies and benchmarks, as SVG.

The same numbers give the same bytes. The ground is white whatever the page's is, so that dark text stays readable;
texts stay texts, which keeps the files small. matplotlib is loaded by whoever draws.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from offline.data.catalogue import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

INK, FAINT, GRID = "#24292f", "#8c959f", "#e5e7ea"
OURS, OTHERS, REFERENCE = "#0072b2", "#b34d00", "#595959"

_SETTINGS: dict[RcKeyType, Any] = {
    "svg.hashsalt": "lorank",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own defaults and ours, whatever the machine is set to. DataError if it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise DataError("figures need matplotlib: pip install -e '.[offline]' -c constraints.txt") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def with_grid(axes: Axes) -> Axes:
    """The same axes, with a faint grid behind what is drawn."""
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file without date and creator. Called within ``style``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"
