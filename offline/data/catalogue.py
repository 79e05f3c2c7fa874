"""Raw users and items: what is known of them beside their interactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Line(str):
    """A line for people. Its ``lasting`` form, which files and Redis may have, quotes no data: nobody could remove the
    ids in a sentence from there when their users are forgotten."""

    lasting: str

    def __new__(cls, words: str, lasting: str) -> Line:
        line = super().__new__(cls, words)
        line.lasting = lasting
        return line


def lasting(words: str) -> str:
    """The form of a line that may be stored; words that are no ``Line`` quote no data, and are it."""
    return words.lasting if isinstance(words, Line) else words


def joined(lines: Iterable[str], before: str = "") -> Line:
    """Lines as one, behind words of our own."""
    lines = list(lines)
    return Line(before + "; ".join(lines), before + "; ".join(map(lasting, lines)))


class DataError(ValueError):
    """Input data is missing, damaged, too little, or contradicts itself. Words that quote data are a ``Line``."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Raw features by user id and by item id. The order of the ids is the tie-break of simultaneous events."""

    users: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, Mapping[str, Any]]
