"""Rank bodies in a small part of pydantic's time: msgspec reads the candidates, pydantic validates what is left.

A body that is not plainly right is left to pydantic as a whole, which then says what is wrong with it. Both accept the
same bodies; tests/service/api/test_bodies.py compares them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import ConfigDict, TypeAdapter, ValidationError

from service.api.bodies import Limits, RankOptions, rank_options
from service.api.values import ID_BYTES, Features
from service.errors import InvalidRequest

_BYTES_PER_CHARACTER = 4


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str


class _Candidate(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str | int
    features: Any = None


def _decoder(candidates: Any) -> msgspec.json.Decoder[Any]:
    fields: list[tuple[str, Any, Any]] = [(name, Any, msgspec.UNSET) for name in RankOptions.model_fields]
    return msgspec.json.Decoder(
        msgspec.defstruct("_Body", [("candidates", candidates), *fields], forbid_unknown_fields=True)
    )


_PLAIN, _ANY = _decoder(list[_Plain]), _decoder(list[_Candidate])
_FEATURES: TypeAdapter[dict[str, Any]] = TypeAdapter(Features, config=ConfigDict(strict=True))


def decode_rank(raw: bytes, limits: Limits) -> tuple[list[str], list[dict[str, Any] | None], RankOptions] | None:
    """Ids of the candidates as they came, their features, and everything else; None if pydantic has to look at it."""
    try:
        body, ids, features = _candidates(raw)
        given = ((name, getattr(body, name)) for name in RankOptions.model_fields)
        options = rank_options(limits).model_validate(
            {name: value for name, value in given if value is not msgspec.UNSET}
        )
    except (msgspec.MsgspecError, ValidationError, InvalidRequest, ValueError, RecursionError):
        return None
    if not 1 <= len(ids) <= limits.max_candidates or not all(ids) or _is_too_long(ids):
        return None
    return ids, features, options


def _candidates(raw: bytes) -> tuple[Any, list[str], list[dict[str, Any] | None]]:
    """The body with ids and features of its candidates. Most requests describe none, and name them by text."""
    try:
        body = _PLAIN.decode(raw)
        return body, [one.id for one in body.candidates], [None] * len(body.candidates)
    except msgspec.ValidationError:
        body = _ANY.decode(raw)
    found: list[_Candidate] = body.candidates
    features = [one.features for one in found]
    if features.count(None) < len(features):
        features = [None if one is None else _FEATURES.validate_python(one) for one in features]
    return body, list(map(str, [one.id for one in found])), features


def _is_too_long(ids: list[str]) -> bool:
    if max(map(len, ids)) * _BYTES_PER_CHARACTER <= ID_BYTES:
        return False
    return any(len(one.encode()) > ID_BYTES for one in ids)
