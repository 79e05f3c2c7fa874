"""Words for what is wrong with a body: msgspec finds it, callers read here what a field must be, in terms of JSON."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection

from models.contract.ids import ID_DEMANDS, IdFault
from service.api.schemas import LARGEST_FLOAT
from service.ranking.types import RerankMode

_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_COMPARED = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_ID_FIELD = re.compile(r"(?:^|\.)(?:id|user_id|item_id|unit)$|^(?:allow|deny)\[\d+\]$")


def _kind(match: re.Match[str], field: str) -> str:
    expected = [_KINDS.get(name, name) for name in match["expected"].split(" | ")]
    got = "a decimal number" if match["got"] == "float" else _KINDS.get(match["got"], match["got"])
    *others, last = expected
    return f"must be {', '.join(others)} or {last}, not {got}" if others else f"must be {last}, not {got}"


def _length(match: re.Match[str], field: str) -> str:
    if _ID_FIELD.search(field):
        return ID_DEMANDS[IdFault.EMPTY]
    if match["kind"] == "str":
        return "must not be empty" if match["bound"] == ">=" else f"must have at most {match['limit']} characters"
    entries = "entry" if match["limit"] == "1" else "entries"
    return f"must have {_COMPARED[match['bound']]} {match['limit']} {entries}"


def _size(match: re.Match[str], field: str) -> str:
    if abs(float(match["limit"])) == LARGEST_FLOAT:
        return "must be a finite number"
    return f"must be {_COMPARED[match['bound']]} {match['limit'].removesuffix('.0')}"


_WORDINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], str]], ...] = (
    (re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>\w+)`"), _kind),
    (re.compile(r"Expected `(?P<kind>\w+)` of length (?P<bound>[<>]=?) (?P<limit>\d+)"), _length),
    (re.compile(r"Expected `(?:int|float)` (?P<bound>[<>]=?) (?P<limit>\S+)"), _size),
    (
        re.compile(r"Expected `str` matching regex .*", re.DOTALL),
        lambda *_: "must be 1 to 128 visible ASCII characters",
    ),
    (
        re.compile(r"Invalid enum value .*", re.DOTALL),
        lambda *_: f"must be one of {', '.join(map(repr, map(str, RerankMode)))}",
    ),
    (re.compile(r"Object missing required field .*", re.DOTALL), lambda *_: "must be there"),
)
"""What msgspec says, and how it is said here. Only request ids have a pattern, only modes of reranking are listed."""


def wording(text: str, field: str) -> str:
    """A message of msgspec about a field, as a demand on that field; a message that is not known stays as it is."""
    for pattern, words in _WORDINGS:
        if match := pattern.fullmatch(text):
            return words(match, field)
    return text


def unknown_field(name: str, fields: Collection[str]) -> str:
    """Words on a name that is none of the ``fields`` of its object."""
    nearest = difflib.get_close_matches(name, fields, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(fields)}"
    return f"is no field here; {hint}"
