"""The form of a text file that nobody has described, from its first megabyte: encoding, separator, quotes, header."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from offline.proposal.encodings import HEAD, encoding_of, opened

_ROWS = 500
_SEPARATORS = (",", "\t", ";", "|", "::")
_UNIT = "\x1f"
_ESCAPE = "\\"


def form_of(path: Path) -> dict[str, Any]:
    """Settings of a table of this file that differ from ``TableConfig``'s defaults. OSError if it cannot be read."""
    if path.suffix.lower() in {".parquet", ".pq"}:
        return {}
    encoding = encoding_of(path)
    with opened(path) as file:
        content = file.read(HEAD)
    text = content[: len(content) // 2 * 2 if encoding.startswith("utf-16") else None].decode(encoding, "ignore")
    text = text.removeprefix("\ufeff")
    if len(content) == HEAD:
        text = text[: text.rfind("\n") + 1]
    settings: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    separator = _separator(text)
    if separator != ",":
        settings["separator"] = separator
    settings |= _quoting(text, separator)
    rows = list(_records(text, separator, settings.get("quote", '"'), settings.get("escape")))
    if rows and not _is_header(rows):
        settings["header"] = [f"column_{number}" for number in range(1, len(rows[0]) + 1)]
    return settings


def _separator(text: str) -> str:
    """The separator that cuts most rows into equally many fields, and of those the one that gives most fields."""
    scores: dict[str, tuple[float, int]] = {}
    for separator in _SEPARATORS:
        widths = Counter(len(row) for row in _records(text, separator, '"' if len(separator) == 1 else "", None))
        if widths:
            width, count = widths.most_common(1)[0]
            if width > 1:
                scores[separator] = (round(count / widths.total(), 1), width)
    # "::" also cuts at ":", but no list of ours has that; a file of one column has no separator
    return max(scores, key=lambda separator: scores[separator], default=",")


def _quoting(text: str, separator: str) -> dict[str, Any]:
    """Settings of quotes and escapes: of those that read the head without a fault, the plainest."""
    if len(separator) > 1:
        return {"quote": ""}
    choices: tuple[dict[str, Any], ...] = ({}, {"escape": _ESCAPE}, {"quote": ""})
    if f'{_ESCAPE}"' not in text:
        choices = ({}, {"quote": ""})
    faults = [_faults(text, separator, choice) for choice in choices]
    return choices[faults.index(min(faults))]


def _faults(text: str, separator: str, choice: dict[str, Any]) -> int:
    """Rows of another width than the first; where quotes cannot be read, lines that are no such row by themselves."""
    quote, escape = choice.get("quote", '"'), choice.get("escape")
    try:
        rows = list(_records(text, separator, quote, escape, strict=True))
    except csv.Error:
        lines = [line for line in text.splitlines(keepends=True) if line.strip()][:_ROWS]
        widths = [_width(line, separator, quote, escape) for line in lines]
        return 1 + sum(width != widths[0] for width in widths)
    broken = sum("\n" in cell for row in rows for cell in row if not choice)
    return sum(len(row) != len(rows[0]) for row in rows) + (broken > _ROWS // 10)


def _width(line: str, separator: str, quote: str, escape: str | None) -> int:
    """Fields of a line; 0 if its quotes cannot be read."""
    try:
        return len(next(_records(line, separator, quote, escape, strict=True), []))
    except csv.Error:
        return 0


def _records(text: str, separator: str, quote: str, escape: str | None, *, strict: bool = False) -> Iterator[list[str]]:
    """The first rows that are not blank."""
    csv.field_size_limit(2**31 - 1)
    if len(separator) > 1:
        text, separator = text.replace(separator, _UNIT), _UNIT
    lines = io.StringIO(text, newline="")
    if quote:
        reader = csv.reader(
            lines, delimiter=separator, quotechar=quote, escapechar=escape, doublequote=escape is None, strict=strict
        )
    else:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    return islice((row for row in reader if row), _ROWS)


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: no cell of it is a number, none comes twice, and none comes again below
    it, unless the whole row does, as in files that were put together."""
    names = rows[0]
    if len(set(names)) < len(names) or any(_is_number(name) for name in names):
        return False
    below = (row for row in rows[1:] if row != names)
    return not any(name and name == cell for row in below for name, cell in zip(names, row, strict=False))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip().lower() not in {"nan", "inf", "infinity"}
