"""Raw users and items: what is known of them beside their interactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class DataLine(str):
    """A line for people that quotes data. Its ``lasting`` form, which files and Redis may have, does not: nobody could
    remove the ids in a sentence from there when their users are forgotten."""

    lasting: str

    def __new__(cls, words: str, lasting: str) -> DataLine:
        line = super().__new__(cls, words)
        line.lasting = lasting
        return line

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # of a copy, which has both forms
        return str(self), self.lasting


def lasting(words: str) -> str:
    """The form of a line that may be stored; words that are no ``DataLine`` quote no data, and are it."""
    return words.lasting if isinstance(words, DataLine) else words


def joined(lines: Iterable[str], before: str = "") -> DataLine:
    """Lines as one, behind words of our own."""
    lines = list(lines)
    return DataLine(before + "; ".join(lines), before + "; ".join(map(lasting, lines)))


def line_of(error: BaseException) -> str:
    """The words of an error, a ``DataLine`` if they quote data."""
    first = error.args[0] if len(error.args) == 1 else None
    return first if isinstance(first, DataLine) else str(error)


class DataError(ValueError):
    """Input data is missing, damaged, too little, or contradicts itself. Words that quote data are a ``DataLine``."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Raw features by user id and by item id. The order of the ids is the tie-break of simultaneous events."""

    users: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, Mapping[str, Any]]
