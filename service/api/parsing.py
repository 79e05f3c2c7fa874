"""Bytes of request bodies into requests of the domain. Needs no web framework, and may run in any thread."""

from __future__ import annotations

import random
import time
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from models.contract.events import Interaction
from models.contract.schema import FeatureSchema
from service.api.bodies import ANSWERED, FOUND, EventBody, FeedbackBody, Limits, RankOptions, rank_body, recommend_body
from service.api.decoding import decode_rank
from service.api.values import RequestId
from service.errors import InvalidRequest, MalformedRequest
from service.ranking.types import Described, RankRequest, RerankMode, RetrievalRequest

DAY_MS = 86_400_000

Body = TypeVar("Body", bound=BaseModel)


class _Named(BaseModel):
    """The part of any body that tells it apart from others."""

    request_id: RequestId


def parse_rank(raw: bytes, limits: Limits) -> tuple[RankRequest, float]:
    """A rank request and its deadline in ms. MalformedRequest if ``raw`` is not JSON, InvalidRequest if it is wrong."""
    decoded = decode_rank(raw, limits)
    if decoded is None:
        whole = _validated(rank_body(limits), raw)
        decoded = [one.id for one in whole.candidates], [one.features for one in whole.candidates], whole
    ids, features, body = decoded
    candidates = tuple(dict.fromkeys(ids))
    described = _described(ids, features) if any(features) else {}
    request = _request(body, candidates, described, repeated=len(ids) - len(candidates), top_k=body.top_k)
    return request, _deadline_ms(body, limits)


def parse_recommend(raw: bytes, limits: Limits) -> tuple[RankRequest, float]:
    """A rank request whose candidates are to be found, and its deadline in ms. Errors as ``parse_rank``."""
    body = _validated(recommend_body(limits), raw)
    retrieval = RetrievalRequest(
        count=min(FOUND, limits.max_candidates) if body.count is None else body.count,
        exclude_seen=body.exclude_seen is not False,
        allow=None if body.allow is None else tuple(body.allow),
        deny=tuple(body.deny or ()),
        where={name: tuple(one) if isinstance(one, list) else (one,) for name, one in (body.where or {}).items()},
    )
    return _request(body, (), {}, top_k=body.top_k or ANSWERED, retrieval=retrieval), _deadline_ms(body, limits)


def _request(
    body: RankOptions,
    candidates: tuple[str, ...],
    described: Described,
    *,
    top_k: int | None,
    repeated: int = 0,
    retrieval: RetrievalRequest | None = None,
) -> RankRequest:
    return RankRequest(
        request_id=body.request_id or new_request_id(),
        user_id=body.user_id or "",
        candidates=candidates,
        described=described,
        repeated=repeated,
        unit=body.unit,
        context=body.context or {},
        top_k=top_k,
        explain=body.explain or False,
        rerank=RerankMode(body.rerank or RerankMode.AUTO),
        arms=body.arms or {},
        retrieval=retrieval,
    )


def _deadline_ms(body: RankOptions, limits: Limits) -> float:
    return limits.default_deadline_ms if body.deadline_ms is None else body.deadline_ms


def _described(ids: list[str], features: list[dict[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Features by id. The first of equal ids counts, whether it has features or not."""
    first: dict[str, dict[str, Any] | None] = {}
    for one, described in zip(ids, features, strict=True):
        first.setdefault(one, described)
    return {one: described for one, described in first.items() if described}


def parse_feedback(raw: bytes, schema: FeatureSchema | None) -> tuple[str, list[Interaction]]:
    """Request id and interactions of a feedback body, which is a batch or one bare event. Errors as ``parse_rank``.

    ``schema`` is that of the loaded release: what enters the history must have a value that it accepts. Without a
    release everything is accepted, because losing feedback is worse, and the offline jobs check again.
    """
    now = int(time.time() * 1000)
    batch = _is_batch(raw)
    if batch:
        body = _validated(FeedbackBody, raw)
    else:
        event = _validated(EventBody, raw)
        body = FeedbackBody(request_id=event.request_id, events=[event])
    for position, event in enumerate(body.events):
        prefix = f"events[{position}]." if batch else ""
        if event.timestamp_ms is not None and event.timestamp_ms > now + DAY_MS:
            raise InvalidRequest("the timestamp is more than a day in the future", field=f"{prefix}timestamp_ms")
        if schema is not None and event.type in schema.history_types and not schema.accepts(event.value):
            span = f"{schema.value_min:g} to {schema.value_max:g}"
            raise InvalidRequest(f"the value of a {event.type!r} must be {span}", field=f"{prefix}value")
    interactions = [
        Interaction(
            user_id=event.user_id,
            item_id=event.item_id,
            type=event.type,
            value=event.value,
            time_ms=now if event.timestamp_ms is None else event.timestamp_ms,
            request_id=event.request_id or body.request_id,
        )
        for event in body.events
    ]
    return body.request_id or new_request_id(), interactions


def new_request_id() -> str:
    return f"{random.getrandbits(128):032x}"  # uuid4 asks the kernel each time


def request_id_in(raw: bytes) -> str | None:
    """The request id of a body that is otherwise wrong, so that its error can be told apart from others."""
    try:
        return _Named.model_validate_json(raw, strict=True).request_id
    except ValidationError:
        return None


def _is_batch(raw: bytes) -> bool:
    try:
        document = from_json(raw)
    except ValueError as error:
        raise MalformedRequest("the body is not JSON", field="body") from error
    return not isinstance(document, dict) or "events" in document or "item_id" not in document


def _validated(kind: type[Body], raw: bytes) -> Body:
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedRequest(f"the body is not JSON: {first['ctx']['error']}", field="body") from error
        raise InvalidRequest(first["msg"], field=_dotted(first["loc"]) or "body") from error


def _dotted(location: tuple[int | str, ...]) -> str:
    """``("candidates", 3, "id")`` as ``candidates[3].id``; an empty key as ``[""]``."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step:
            path += '[""]'
        elif step != "[key]":  # the mark for a refused key rather than its value
            path += f".{step}" if path else step
    return path
