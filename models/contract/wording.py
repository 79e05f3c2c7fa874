"""Cleaning of values, so that they are harmless inside a prompt. Jobs and service put the same values into prompts, so
both clean alike.

Values are data. They lose line breaks, control and invisible characters, double quotes, angle brackets and the
bracketed words that chat formats reserve, and they are cut at a length; so a value can neither close the quotes that a
template puts around it, nor start a line or a turn of its own. What they say in words is the caller's risk.
"""

from __future__ import annotations

import re
from typing import Any

MAX_CHARS = 600
"""Default length of one value: enough for a plot, too short to bury a prompt."""

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Invisible: soft hyphen, direction marks, zero-width characters (but not the joiners that scripts need), tags,
# and lone surrogates, which no encoder accepts.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
    "\ud800-\udfff]"
)
_RESERVED = re.compile(r"\[(/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|THINK))\]", re.I)
_HARMLESS = str.maketrans({'"': "'", "<": "‹", ">": "›"})


class Rendered(str):
    """Text that a template made. Inside another template it is inserted as it is."""

    __slots__ = ()


def clean(value: Any, max_chars: int = MAX_CHARS) -> str:
    """A value as one harmless line of at most ``max_chars`` characters; "" if there is nothing to say."""
    if isinstance(value, Rendered):
        return str(value)
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (list, tuple)):
        value = ", ".join(part for part in (clean(element, max_chars) for element in value) if part)
    text = _RESERVED.sub(r"(\1)", _INVISIBLE.sub("", _BREAKS.sub(" ", str(value))).translate(_HARMLESS))
    text = " ".join(text.split())
    return text if len(text) <= max_chars else text[: max_chars - 1].rstrip() + "…"
