"""Markdown tables of studies. (What a training reports of itself is offline/training/report.py.)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offline.training.bootstrap import Difference


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of the rows' cells. A row with fewer cells than ``heads`` ends empty; ValueError for one with more."""
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for row in rows:
        if len(row) > len(heads):
            raise ValueError(f"a row has {len(row)} cells, the table {len(heads)} columns: {row}")
        lines.append(_line([*row, *[""] * (len(heads) - len(row))]))
    return "\n".join(lines)


def difference_cell(delta: Difference | None) -> str:
    """A difference with its interval, bold where that excludes zero; empty for None."""
    if delta is None:
        return ""
    return f"**{delta}**" if delta.is_shown else str(delta)


def spread_cell(middle: float, deviation: float | None) -> str:
    """A mean over seeds, and its standard deviation if there is one."""
    return f"{middle:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell.replace('|', '/')} |" if cell else " |" for cell in cells)
