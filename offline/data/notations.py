"""How text cells write what is no text: numbers with a decimal comma, arrays, and times."""

from __future__ import annotations

import ast
import json
import re
from datetime import datetime
from typing import Any

import polars as pl

ARRAY = "[]"
"""In place of the separator of a list: its cells are arrays."""

COMMA_NUMBER = r"^\s*[-+]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?\s*$"
"""1234,5 and 1.234,5, where a comma begins the fraction: a point only parts thousands."""

_MISREAD = re.compile(r"\d{4}-?\d{2}-?\d{2}(?:\D\d{2}(?::?\d{2})?[.,]|[-+]\d{2}(?::?\d{2})?$)")
"""What Python reads as ISO 8601, but not as it is meant: the fraction of an hour or a minute as one of a second (20.11
is eight o'clock), and the offset of a date as a time of day."""


def moment_of(text: str, form: str | None) -> datetime | None:
    """The time that a text says in a format of strptime, or in ISO 8601 without one, without a zone unless it says one;
    None of another text."""
    text = text.strip()
    if form is None and _MISREAD.match(text):
        return None
    try:
        return datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)
    except ValueError:
        return None


def with_point(text: pl.Series) -> pl.Series:
    """Numbers with a decimal comma as numbers with a point; null for whatever else."""
    plain = text.str.strip_chars().str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    return pl.select(pl.when(text.str.contains(COMMA_NUMBER)).then(plain)).to_series().alias(text.name)


def array_of(cell: str | None) -> list[str] | None:
    """The texts of an array as JSON or Python writes it, ["a", "b"] or ['a', 'b']; of objects their "name". [] of an
    empty cell, None of what is no array of texts, numbers or named objects."""
    if not (cell or "").strip():
        return []
    texts = [_text_of(entry) for entry in _parsed(str(cell).strip())]
    return None if None in texts else [text for text in texts if text]


def _parsed(cell: str) -> list[Any]:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return list(value) if isinstance(value, (list, tuple)) else [None]
    return [None]


def _text_of(entry: Any) -> str | None:
    if isinstance(entry, dict):
        entry = entry.get("name")
    return str(entry).strip() if isinstance(entry, (str, int, float)) else None
