"""Markdown tables of studies, and the pages of the documentation that they are written into: between two markers; all
else on a page is its authors'. (A training reports of itself in offline/training/report.py.)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from offline.data.catalogue import DataError
from offline.data.files import write_bytes
from offline.training.bootstrap import Difference
from research.test_set_ledger import Ledger

DOCS = Path(__file__).parents[1] / "docs"
"""The pages of this checkout, whatever the working folder is: research/ is never installed anywhere else."""

LEDGER = "test-looks.jsonl"


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


def ledger_of(page: Path | None, command: str) -> Ledger:
    """The ledger of test-set uses by ``command``: beside the page that is written, else in ``DOCS``."""
    return Ledger((DOCS if page is None else page.parent) / LEDGER, command)


def write_table(name: str, table: str, page: Path | None) -> None:
    """Print a table and, if a page is given, put it there between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    DataError if the page does not have both of these lines, once each.
    """
    print(table)
    if page is None:
        return
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise DataError(f"{page} has no place for the table: it needs the lines {start.strip()} and {end}")
    before, rest = text.split(start)
    write_bytes(page, f"{before}{start}{table}\n{end}{rest.split(end)[1]}".encode())


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell.replace('|', '/')} |" if cell else " |" for cell in cells)
