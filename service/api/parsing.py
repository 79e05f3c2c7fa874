"""Bytes of request bodies into requests of the domain. Needs no web framework, and may run in any thread."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import msgspec
from msgspec.json import Decoder
from pydantic_core import from_json

from models.contract.events import Interaction
from models.contract.schema import FeatureSchema
from service.api.schemas import (
    DEFAULT_COUNT,
    DEFAULT_TOP_K,
    ID_BYTES,
    Arms,
    EventBody,
    Features,
    FeedbackBody,
    Limits,
    RankBody,
    RankOptions,
    RecommendBody,
    RequestId,
)
from service.errors import InvalidRequest, MalformedRequest, ServiceError
from service.ranking.types import Described, RankRequest, RerankMode, RetrievalRequest

DAY_MS = 86_400_000

_PLACE = re.compile(r" - at (?:`key` in )?`\$(?P<path>[\w.\[\]]*)`$")
_FIELD_OF = re.compile(r"Object (?:missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL)
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_BYTES_PER_CHARACTER = 4
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")

T = TypeVar("T")


class _Identified(msgspec.Struct):
    """The part of any body that tells it from others."""

    request_id: RequestId


_RANK, _RECOMMEND = Decoder(RankBody), Decoder(RecommendBody)
_FEEDBACK, _IDENTIFIED = Decoder(FeedbackBody), Decoder(_Identified)


def parse_rank(raw: bytes, limits: Limits) -> tuple[RankRequest, float]:
    """A rank request and its deadline in ms. MalformedRequest if ``raw`` is not JSON, InvalidRequest if it is wrong."""
    body = _decoded(_RANK, raw)
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
    body = _decoded(_RECOMMEND, raw)
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
        user_id="" if body.user_id is None else _id(body.user_id, "user_id"),
        candidates=candidates,
        described=described,
        repeated=repeated,
        unit=None if body.unit is None else _id(body.unit, "unit"),
        context=body.context or {},
        top_k=body.top_k or (None if retrieval is None else DEFAULT_TOP_K),
        explain=body.explain or False,
        rerank=RerankMode(body.rerank or RerankMode.AUTO),
        arms=body.arms or {},
        retrieval=retrieval,
    )
    return request, deadline_ms


def parse_feedback(raw: bytes, schema: FeatureSchema | None) -> tuple[str, list[Interaction]]:
    """Request id and interactions of a feedback body, which is a batch or one bare event. Errors as ``parse_rank``.

    ``schema`` is that of the loaded release: what enters the history must have a value that it accepts. Without a
    release everything is accepted, because losing feedback is worse, and the offline jobs check again.
    """
    now = int(time.time() * 1000)
    body, prefix = _feedback(raw)
    interactions = []
    for position, event in enumerate(body.events):
        place = prefix.format(position)
        if event.timestamp_ms is not None and event.timestamp_ms > now + DAY_MS:
            raise InvalidRequest("the timestamp is more than a day in the future", field=f"{place}timestamp_ms")
        if schema is not None and event.type in schema.history_types and not schema.accepts(event.value):
            span = f"{schema.value_min:g} to {schema.value_max:g}"
            raise InvalidRequest(f"the value of a {event.type!r} must be {span}", field=f"{place}value")
        interactions.append(
            Interaction(
                user_id=_id(event.user_id, f"{place}user_id"),
                item_id=_id(event.item_id, f"{place}item_id"),
                type=event.type,
                value=event.value,
                time_ms=now if event.timestamp_ms is None else event.timestamp_ms,
                request_id=event.request_id or body.request_id,
            )
        )
    return body.request_id or new_request_id(), interactions


def _feedback(raw: bytes) -> tuple[FeedbackBody, str]:
    """A batch, if only of one bare event; and what stands before the fields of its events in messages."""
    try:
        return _decoded(_FEEDBACK, raw), "events[{}]."
    except InvalidRequest:
        document = _document(raw)
        if not isinstance(document, dict) or "events" in document:
            raise
    if "item_id" not in document:
        raise InvalidRequest("a batch has events, and a bare event an item_id; there is neither", field="events")
    event = _converted(document, EventBody)
    return FeedbackBody(request_id=event.request_id, events=[event]), ""


def new_request_id() -> str:
    return f"{random.getrandbits(128):032x}"  # uuid4 asks the kernel each time


def request_id_in(raw: bytes) -> str | None:
    """The request id of a body that is otherwise wrong, so that its error can be told from others."""
    try:
        return _decoded(_IDENTIFIED, raw).request_id
    except ServiceError:
        return None


def _ids(given: list[str | int], place: str) -> list[str]:
    """Ids as text. InvalidRequest for an id of too many bytes; ``place`` formats the position of its field."""
    ids = cast(list[str], given)
    try:
        if "".join(ids).isascii():  # then their type has counted their bytes
            return ids
    except TypeError:  # integers among them
        ids = list(map(str, given))
    if max(map(len, ids)) * _BYTES_PER_CHARACTER > ID_BYTES:
        for position, text in enumerate(ids):
            if len(text.encode()) > ID_BYTES:
                raise InvalidRequest(f"must have 1 to {ID_BYTES} bytes in UTF-8", field=place.format(position))
    return ids


def _id(given: str | int, field: str) -> str:
    return _ids([given], field)[0]


def _check_at_most(value: float, limit: float, field: str) -> None:
    if value > limit:
        raise InvalidRequest(f"must be at most {limit:g}", field=field)


def _check_length(values: Sequence[object], limits: Limits, field: str) -> None:
    if len(values) > limits.max_candidates:
        raise InvalidRequest(f"must have at most {limits.max_candidates} entries", field=field)


def _decoded(decoder: Decoder[T], raw: bytes) -> T:
    """The body in ``raw``. Python's dialect of JSON only matters where it decides how a body is refused."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _refusal(error, _document(raw)) from error
    except _UNREADABLE:
        return _converted(_document(raw), decoder.type)


def _document(raw: bytes) -> Any:
    """The document that the JSON in ``raw`` holds, with NaN and Infinity, which are then refused at their place."""
    try:
        return from_json(raw)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}", field="body") from error


def _converted(document: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _refusal(error, document) from error


def _refusal(error: msgspec.ValidationError, document: Any) -> InvalidRequest:
    """The message of msgspec about a document, with the place in a form of our own."""
    text, path = str(error), ""
    if place := _PLACE.search(text):
        text, path = text[: place.start()], place["path"]
    if named := _FIELD_OF.fullmatch(text):
        path += _step(named["name"])
    elif place and ("[...]" in path or "`key`" in place[0]):
        path = _path_of_entry(document, path.partition("[...]")[0])
    return InvalidRequest(text, field=path.removeprefix(".") or "body")


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
