"""Spellings of ids: why those of two files never meet, and in which spelling they would."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from decimal import Decimal

_SCIENTIFIC = re.compile(r"\d+(\.\d+)?[eE][+-]?\d{1,2}")


def _plain_number(identifier: str) -> str:
    return f"{Decimal(identifier):f}" if _SCIENTIFIC.fullmatch(identifier) else identifier


_SPELLINGS: dict[str, Callable[[str], str]] = {
    '"12.0" as "12"': lambda identifier: re.sub(r"(?<=\d)\.0+$", "", identifier),
    '"007" as "7"': lambda identifier: re.sub(r"^0+(?=\d+$)", "", identifier),
    '"3e+11" as "300000000000"': _plain_number,
    "without spaces around them": str.strip,
    "in lower case": str.casefold,
}


def common_spelling(used: Collection[str], described: Collection[str]) -> str:
    """A note on the spelling in which most ids that are ``used`` are also ``described``, or on digits that are lost; ""
    where no spelling helps."""
    best, most = "", 0
    for words, spell in _SPELLINGS.items():
        known = {spell(identifier) for identifier in described}
        meeting = sum(spell(identifier) in known for identifier in used)
        if meeting > most:
            best, most = f"{meeting} of {len(used)} would be, written {words}", meeting
    if best:
        return best
    for name, identifiers in (("interactions", used), ("descriptions", described)):
        if 2 * sum(_SCIENTIFIC.fullmatch(identifier) is not None for identifier in identifiers) > len(identifiers):
            return f"those of the {name} are numbers of a spreadsheet, which lost their digits: export them as text"
    return ""
