"""Request and response bodies, as in the OpenAPI page. Requests are strict: nothing is coerced, nothing is ignored.

Parsing needs no web framework. Limits that an operator sets are checked after the shape.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.contract.events import Interaction
from service.api.values import Features, Id, RequestId
from service.errors import InvalidRequest, MalformedRequest
from service.ranking.types import Candidate, RankRequest

MAX_EVENTS = 1000
DAY_MS = 86_400_000
LARGEST_VALUE = 1e9
"""An interaction's value is kept as a 32-bit float, and its square must be one too."""

Body = TypeVar("Body", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CandidateBody(_Strict):
    id: Id
    features: Features | None = Field(None, description="Describe the item only if the catalogue does not hold it")


class RankBody(_Strict):
    request_id: RequestId | None = Field(None, description="Joins feedback to this request; generated if absent")
    user_id: Id
    candidates: Annotated[list[CandidateBody], Field(min_length=1)]
    context: Features = Field(default_factory=dict, description="Checked and otherwise not used by current models")
    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="Answer only the best ones")
    deadline_ms: Annotated[float, Field(gt=0)] | None = None
    explain: bool = False
    rerank: Literal["auto", "off", "force"] = "auto"
    arms: dict[str, str] = Field(default_factory=dict, description="Arms forced by layer")


class EventBody(_Strict):
    user_id: Id
    item_id: Id
    type: Annotated[str, Field(min_length=1, max_length=64)] = "rating"
    value: Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)] = 1.0
    timestamp_ms: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        None, description="Now if absent; a retry is recognised only if it repeats the timestamp"
    )
    request_id: RequestId | None = Field(None, description="The ranked request that this interaction answers")


class FeedbackBody(_Strict):
    request_id: RequestId | None = None
    events: Annotated[list[EventBody], Field(min_length=1, max_length=MAX_EVENTS)]


class ExplainReply(BaseModel):
    score_without_knowledge: float


class ItemReply(BaseModel):
    id: str
    score: float
    rank: int
    explain: ExplainReply | None = None


class ModelReply(BaseModel):
    name: str
    version: str


class ExperimentReply(BaseModel):
    layer: str
    experiment: str
    arm: str


class KnowledgeReply(BaseModel):
    fresh: int
    stale: int
    missing: int


class TimingReply(BaseModel):
    features: float
    score: float
    rerank: float
    total: float


class RankReply(BaseModel):
    request_id: str
    items: list[ItemReply]
    release: str
    model: ModelReply
    experiments: list[ExperimentReply]
    knowledge: KnowledgeReply
    degraded: list[str]
    timing_ms: TimingReply


class FeedbackReply(BaseModel):
    accepted: int
    request_id: str


class ErrorDetail(BaseModel):
    code: str
    message: str
    request_id: str
    field: str | None = None
    retry_after_ms: int | None = None


class ErrorReply(BaseModel):
    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows beyond the shape of a body."""

    max_candidates: int
    default_deadline_ms: float
    max_deadline_ms: float


def parse_rank(raw: bytes, limits: Limits) -> tuple[RankRequest, float]:
    """A rank request and its deadline in ms. MalformedRequest if ``raw`` is not JSON, InvalidRequest if it is wrong."""
    body = _validated(RankBody, raw)
    if len(body.candidates) > limits.max_candidates:
        raise InvalidRequest(
            f"{len(body.candidates)} candidates are more than {limits.max_candidates}", field="candidates"
        )
    deadline_ms = limits.default_deadline_ms if body.deadline_ms is None else body.deadline_ms
    if deadline_ms > limits.max_deadline_ms:
        raise InvalidRequest(f"a deadline may be at most {limits.max_deadline_ms:g} ms", field="deadline_ms")
    request = RankRequest(
        request_id=body.request_id or new_request_id(),
        user_id=body.user_id,
        candidates=tuple(Candidate(one.id, one.features) for one in body.candidates),
        context=body.context,
        top_k=body.top_k,
        explain=body.explain,
        rerank=body.rerank,
        arms=body.arms,
    )
    return request, deadline_ms


def parse_feedback(raw: bytes) -> tuple[str, list[Interaction]]:
    """Request id and interactions of a feedback body, which is a batch or one bare event. Errors as ``parse_rank``."""
    now = int(time.time() * 1000)
    batch = _is_batch(raw)
    if batch:
        body = _validated(FeedbackBody, raw)
    else:
        event = _validated(EventBody, raw)
        body = FeedbackBody(request_id=event.request_id, events=[event])
    for position, event in enumerate(body.events):
        if event.timestamp_ms is not None and event.timestamp_ms > now + DAY_MS:
            field = f"events[{position}].timestamp_ms" if batch else "timestamp_ms"
            raise InvalidRequest("the timestamp is more than a day in the future", field=field)
    interactions = [
        Interaction(
            user_id=event.user_id,
            item_id=event.item_id,
            type=event.type,
            value=event.value,
            time_ms=now if event.timestamp_ms is None else event.timestamp_ms,
            request_id=event.request_id,
        )
        for event in body.events
    ]
    return body.request_id or new_request_id(), interactions


def new_request_id() -> str:
    return uuid.uuid4().hex


def request_id_in(raw: bytes) -> str | None:
    """The request id of a body that is otherwise wrong, so that its error can be told apart from others."""
    try:
        found = json.loads(raw).get("request_id")
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) and re.fullmatch(r"[!-~]{1,128}", found) else None


def _is_batch(raw: bytes) -> bool:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not JSON") from error
    return not isinstance(document, dict) or "events" in document or "item_id" not in document


def _validated(kind: type[Body], raw: bytes) -> Body:
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedRequest(f"the body is not JSON: {first['ctx']['error']}") from error
        raise InvalidRequest(first["msg"], field=_dotted(first["loc"]) or None) from error


def _dotted(location: tuple[int | str, ...]) -> str:
    """``("candidates", 3, "id")`` as ``candidates[3].id``."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step and step != "[key]":  # the mark for a refused key rather than its value
            path += f".{step}" if path else step
    return path
