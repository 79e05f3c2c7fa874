"""Parts of a TOML file: strings, keys, numbers, comments, fields of a feature schema."""

from __future__ import annotations

import json

from offline.proposal.features import Column

_WIDTH = 116


def quoted(value: str) -> str:
    """A string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def key_of(name: str) -> str:
    """A key, in quotes where it needs them."""
    return name if name and name.replace("_", "").replace("-", "").isalnum() and name.isascii() else quoted(name)


def commented(line: str, comment: str) -> str:
    """A line with a comment behind it."""
    return f"{line.ljust(32)} # {comment}"


def decimal_of(value: float) -> str:
    """A number with a fraction."""
    written = f"{value:.6g}"
    return written if "." in written or "e" in written else f"{written}.0"


def field_of(column: Column) -> str:
    """The field by which a model reads a column, over several lines if it is long."""
    assert column.field is not None
    parts = [f"name = {quoted(column.name)}"]
    parts += [f"{key} = {value}" for key, value in column.field.items() if key == "slots"]
    listed = column.field.get("vocab") or column.field.get("edges") or []
    values = [quoted(value) if isinstance(value, str) else f"{value:.10g}" for value in listed]
    opening = f"    {{ {', '.join(parts)}, {'vocab' if 'vocab' in column.field else 'edges'} = ["
    lines, line = [], "        "
    if len(opening) + len(", ".join(values)) + 4 <= _WIDTH:
        return f"{opening}{', '.join(values)}] }},"
    for value in values:
        if len(line) + len(value) + 2 > _WIDTH:
            lines.append(line.rstrip())
            line = "        "
        line += f"{value}, "
    return "\n".join([opening, *lines, line.rstrip(), "    ] },"])
