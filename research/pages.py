"""Pages of the documentation that studies write into: a table goes between two markers, all else is its authors'."""

from __future__ import annotations

from pathlib import Path

from offline.data.catalogue import DataError
from offline.data.files import write_bytes

DOCS = Path(__file__).parents[1] / "docs"
"""The pages of this checkout, whatever the working folder is: research/ is never installed anywhere else."""

LEDGER = "test-looks.jsonl"


def ledger_of(page: Path | None) -> Path:
    """The ledger of looks at test splits (research/ledger.py): beside the page that is written, else in ``DOCS``."""
    return (DOCS if page is None else page.parent) / LEDGER


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
