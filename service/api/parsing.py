"""Bytes of request bodies into requests of the domain. Needs no web framework, and may run in any thread."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec
from msgspec.json import Decoder
from pydantic_core import from_json

from models.contract.ids import ID_BYTES, ID_DEMANDS, has_control_characters, id_fault, is_nobody
from service.api.schemas import (
    DEFAULT_COUNT,
    DEFAULT_TOP_K,
    Arms,
    ArmsBody,
    CandidateBody,
    EventBody,
    Features,
    Limits,
    RankBody,
    RankOptions,
    RecommendBody,
    RequestId,
)
from service.api.wording import unknown_field, wording
from service.errors import InvalidRequest, MalformedRequest, ServiceError
from service.ranking.types import Described, RankRequest, RerankMode, RetrievalRequest

_PLACE = re.compile(r" - at (?:`key` in )?`\$(?P<path>[\w.\[\]]*)`$")
_FIELD_OF = re.compile(r"Object (?P<fault>missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL)
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_BYTES_PER_CHARACTER = 4
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")

T = TypeVar("T")


class _Identified(msgspec.Struct):
    """The part of any body that tells it from others."""

    request_id: RequestId


_RANK, _RECOMMEND, _ARMS = Decoder(RankBody), Decoder(RecommendBody), Decoder(ArmsBody)
_IDENTIFIED = Decoder(_Identified)


def parse_rank(raw: bytes, limits: Limits) -> tuple[RankRequest, float]:
    """A rank request and its deadline in ms. MalformedRequest if ``raw`` is not JSON, InvalidRequest if it is wrong."""
    body = body_of(_RANK, raw)
    given = body.candidates
    _check_length(given, limits, "candidates")
    ids = _ids([candidate.id for candidate in given], "candidates[{}].id")
    candidates = tuple(dict.fromkeys(ids))
    features = [candidate.features for candidate in given]
    described = {}
    if any(features):  # the first of equal ids counts, whether it has features or not
        first = dict(zip(reversed(ids), reversed(features), strict=True))
        described = {item: of_item for item in candidates if (of_item := first[item])}
    return _request(body, limits, candidates, described, repeated=len(ids) - len(candidates))


def parse_recommend(raw: bytes, limits: Limits) -> tuple[RankRequest, float]:
    """A rank request whose candidates are to be retrieved, and its deadline in ms. Errors as ``parse_rank``."""
    body = body_of(_RECOMMEND, raw)
    count = min(DEFAULT_COUNT, limits.max_candidates) if body.count is None else body.count
    _check_at_most(count, limits.max_candidates, "count")
    for field, listed in (("allow", body.allow), ("deny", body.deny)):
        _check_length(listed or (), limits, field)
    retrieval = RetrievalRequest(
        count=count,
        exclude_seen=body.exclude_seen is not False,
        allow=None if body.allow is None else tuple(_ids(body.allow, "allow[{}]")),
        deny=tuple(_ids(body.deny or [], "deny[{}]")),
        where={
            name: tuple(value) if isinstance(value, list) else (value,) for name, value in (body.where or {}).items()
        },
    )
    return _request(body, limits, (), {}, retrieval=retrieval)


@dataclass(frozen=True, slots=True)
class ArmsRequest:
    """Whose arms are asked for: ``unit`` is empty for nobody."""

    request_id: str
    unit: str


def parse_arms(raw: bytes, limits: Limits) -> ArmsRequest:
    """Whose arms a body asks for. Errors as ``parse_rank``."""
    body = body_of(_ARMS, raw)
    user, unit = _somebody(body.user_id, limits, "user_id"), _somebody(body.unit, limits, "unit")
    return ArmsRequest(body.request_id or new_request_id(), (user if unit is None else unit) or "")


def _request(
    body: RankOptions,
    limits: Limits,
    candidates: tuple[str, ...],
    described: Described,
    repeated: int = 0,
    retrieval: RetrievalRequest | None = None,
) -> tuple[RankRequest, float]:
    """The request that a body makes of its candidates, or of how they are to be retrieved; and its deadline in ms."""
    deadline_ms = limits.default_deadline_ms if body.deadline_ms is None else body.deadline_ms
    if body.deadline_ms is not None:
        _check_at_most(deadline_ms, limits.max_deadline_ms, "deadline_ms")
    request = RankRequest(
        request_id=body.request_id or new_request_id(),
        user_id=_somebody(body.user_id, limits, "user_id") or "",
        candidates=candidates,
        described=described,
        repeated=repeated,
        unit=_somebody(body.unit, limits, "unit"),
        context=body.context or {},
        top_k=body.top_k or (None if retrieval is None else DEFAULT_TOP_K),
        explain=body.explain or False,
        rerank=RerankMode(body.rerank or RerankMode.AUTO),
        arms=body.arms or {},
        retrieval=retrieval,
    )
    return request, deadline_ms


def new_request_id() -> str:
    return f"{random.getrandbits(128):032x}"  # uuid4 asks the kernel each time


def request_id_in(raw: bytes) -> str | None:
    """The request id of a body that is otherwise wrong, so that its error can be told from others."""
    try:
        return body_of(_IDENTIFIED, raw).request_id
    except ServiceError:
        return None


def _ids(given: list[str | int], place: str) -> list[str]:
    """Ids as text. InvalidRequest for an id that breaks a rule; ``place`` formats the position of its field."""
    ids, counted = cast(list[str], given), True
    try:
        text = "".join(ids)
    except TypeError:  # integers among them, whose digits no type has counted
        ids, counted = list(map(str, given)), False
        text = "".join(ids)
    if text.isascii():
        plain = text.isprintable()  # of ASCII, control characters alone are not
    else:
        counted, plain = False, not has_control_characters(text)
    if plain and (counted or max(map(len, ids)) * _BYTES_PER_CHARACTER <= ID_BYTES):
        return ids
    for position, identifier in enumerate(ids):
        if fault := id_fault(identifier):
            raise InvalidRequest(ID_DEMANDS[fault], field=place.format(position))
    return ids


def checked_id(given: str | int, field: str) -> str:
    """One id as text. InvalidRequest, which names ``field``, if it breaks a rule."""
    return _ids([given], field)[0]


def _somebody(given: str | int | None, limits: Limits, field: str) -> str | None:
    """The id of a user or unit as text, empty for nobody; None if it is not given. Errors as ``checked_id``."""
    if given is None:
        return None
    text = checked_id(given, field)
    return "" if is_nobody(text, limits.nobody) else text


def _check_at_most(value: float, limit: float, field: str) -> None:
    if value > limit:
        raise InvalidRequest(f"must be at most {limit:g}", field=field)


def _check_length(values: Sequence[object], limits: Limits, field: str) -> None:
    if len(values) > limits.max_candidates:
        raise InvalidRequest(f"must have at most {limits.max_candidates} entries", field=field)


def body_of(decoder: Decoder[T], raw: bytes) -> T:
    """The body in ``raw``. Python's dialect of JSON only matters where it decides how a body is refused."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _refusal(error, document_of(raw), decoder.type) from error
    except _UNREADABLE:
        return converted(document_of(raw), decoder.type)


def document_of(raw: bytes) -> Any:
    """The document that the JSON in ``raw`` holds, with NaN and Infinity, which are then refused at their place."""
    try:
        return from_json(raw)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}", field="body") from error


def converted(document: Any, kind: type[T]) -> T:
    """The document as a body of ``kind``. InvalidRequest if it is none."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _refusal(error, document, kind) from error


def _refusal(error: msgspec.ValidationError, document: Any, kind: type[Any]) -> InvalidRequest:
    """What msgspec says about a document that should be of ``kind``, with words and place in a form of our own."""
    text, path = str(error), ""
    if place := _PLACE.search(text):
        text, path = text[: place.start()], place["path"]
    if named := _FIELD_OF.fullmatch(text):
        if named["fault"] == "contains unknown":
            text = unknown_field(named["name"], _fields_at(path, kind))
        path += _step(named["name"])
    elif place and ("[...]" in path or "`key`" in place[0]):
        path = _path_of_entry(document, path.partition("[...]")[0])
    field = path.removeprefix(".") or "body"
    return InvalidRequest(wording(text, field), field=field)


def _fields_at(path: str, kind: type[Any]) -> tuple[str, ...]:
    """Names of the fields of the object at ``path`` in a body of ``kind``."""
    entries: dict[str, type[msgspec.Struct]] = {"candidates": CandidateBody, "events": EventBody}
    struct = entries.get(path.removeprefix(".").partition("[")[0], kind)
    return tuple(field.name for field in msgspec.structs.fields(struct))


def _path_of_entry(document: Any, path: str) -> str:
    """The path of the first bad entry of the mapping at ``path``, of which msgspec says only that it is in there."""
    mapping, kind = document, Arms if path == ".arms" else Features
    with suppress(LookupError, TypeError, AttributeError):  # of a key that comes twice, the document holds the last
        for name, position in _STEP.findall(path):
            mapping = mapping[name] if name else mapping[int(position)]
        for name, value in mapping.items():
            try:
                msgspec.convert({name: value}, kind)
            except msgspec.ValidationError:
                return path + _step(name)
    return path


def _step(name: str) -> str:
    return f".{name}" if name else '[""]'
