"""Ids of users, items and units: what an id may be, and which ids stand for nobody. The same at every door: the API,
files, imports, and the streams that jobs read."""

from __future__ import annotations

import re
from collections.abc import Container
from enum import StrEnum

ID_BYTES = 256
"""Most bytes of an id in UTF-8."""

CONTROL_CHARACTERS = r"[\x00-\x1f\x7f]"
"""Pattern of the characters that no id may hold, for Python's regular expressions and for polars'."""

NOBODY = (
    "null", "Null", "NULL", "none", "None", "nil", "undefined", "nan", "NaN", "[object Object]",
    "00000000-0000-0000-0000-000000000000",
)  # fmt: skip
"""Texts that broken callers and exports write where an id is missing. Each would make a user of everybody's behaviour.
"0" and "-1" mean nobody in some data sets and are ordinary ids in others, so only a person can add them."""

_CONTROL = re.compile(CONTROL_CHARACTERS)


class IdFault(StrEnum):
    """Faults of an id, by the rule of data that each breaks."""

    EMPTY = "id_empty"
    LONG = "id_long"
    CONTROL = "id_control"


ID_DEMANDS = {
    IdFault.EMPTY: f"must have 1 to {ID_BYTES} bytes in UTF-8",
    IdFault.LONG: f"must have 1 to {ID_BYTES} bytes in UTF-8",
    IdFault.CONTROL: "must hold no control characters (U+0000 to U+001F, U+007F)",
}
"""Demands that an id with the fault does not meet, in words for callers."""


def id_fault(text: str) -> IdFault | None:
    """The first fault of ``text`` as an id; half of a surrogate pair counts as a control character."""
    if not text:
        return IdFault.EMPTY
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return IdFault.CONTROL
    if size > ID_BYTES:
        return IdFault.LONG
    return IdFault.CONTROL if _CONTROL.search(text) else None


def has_control_characters(text: str) -> bool:
    """Whether a text of any length holds a character that no id may hold."""
    return _CONTROL.search(text) is not None


def is_nobody(text: str, nobody: Container[str]) -> bool:
    """Whether an id names nobody: it is one of those listed, or blank."""
    return text in nobody or not text.strip()
