"""Request and response bodies, as in the OpenAPI page. Requests are strict: nothing is coerced, nothing is ignored.

What is wrong with a body is not collected: a body of megabytes can be wrong in a million places. Lists fail at their
first bad element, and no object may have more than ``MAX_FIELDS`` fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, create_model, model_validator

from service.api.values import MAX_FIELDS, Features, Id, IdOrEmpty, RequestId, Where
from service.errors import InvalidRequest

MAX_EVENTS = 1000
FOUND, ANSWERED = 200, 20
"""Candidates that a recommend request finds, and items that it answers, if it says nothing else."""

LARGEST_VALUE = 1e9
"""An interaction's value is kept as a 32-bit float, and its square must be one too."""

_DEADLINE = "Milliseconds since the headers of the request arrived; a default of the operator's if absent"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Body(_Strict):
    @model_validator(mode="before")
    @classmethod
    def _is_not_crowded(cls, document: Any) -> Any:
        """InvalidRequest, which ends validation at once, where pydantic would collect an error per field."""
        for path, one in _objects(document):
            if len(one) > MAX_FIELDS:
                raise InvalidRequest(f"an object may have at most {MAX_FIELDS} fields", field=path)
        return document


def _objects(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a body that are checked field by field, each with its path."""
    if not isinstance(document, dict):
        return
    yield "body", document
    for name, value in document.items():
        if isinstance(value, dict):
            yield name, value
        elif isinstance(value, list):
            for at, one in enumerate(value):
                if isinstance(one, dict):
                    yield f"{name}[{at}]", one
                    if isinstance(features := one.get("features"), dict):
                        yield f"{name}[{at}].features", features


class CandidateBody(_Strict):
    id: Id
    features: Features | None = Field(None, description="Describe the item only if the catalogue does not hold it")


class RankOptions(_Body):
    """A rank request without its candidates. ``rank_options`` adds the limits that the operator sets."""

    request_id: RequestId | None = Field(None, description="Joins feedback to this request; generated if absent")
    user_id: IdOrEmpty | None = Field(None, description="Without one, the answer is that of a user nobody knows")
    unit: IdOrEmpty | None = Field(None, description="Who is split into arms, if not the user: a session, a device")
    context: Features | None = Field(None, description="Checked and otherwise not used by current models")
    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="Answer only the best ones")
    deadline_ms: Annotated[float, Field(gt=0)] | None = Field(None, description=_DEADLINE)
    explain: bool | None = Field(None, description="Answer each item's score without knowledge too")
    rerank: Literal["auto", "off", "force"] | None = Field(None, description="auto if absent")
    arms: dict[Annotated[str, Field(min_length=1)], str] | None = Field(None, description="Arms forced by layer")


class RankBody(RankOptions):
    """``rank_body`` adds the limits that the operator sets."""

    candidates: Annotated[list[CandidateBody], FailFast(), Field(min_length=1)]


class RecommendBody(RankOptions):
    """``recommend_body`` adds the limits that the operator sets."""

    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description=f"Items to answer; {ANSWERED} if absent")
    count: Annotated[int, Field(ge=1)] | None = Field(None, description=f"Candidates to find; {FOUND} if absent")
    exclude_seen: bool | None = Field(None, description="Leave out what the user's history holds; true if absent")
    allow: Annotated[list[Id], Field(fail_fast=True)] | None = Field(None, description="Only these items")
    deny: Annotated[list[Id], Field(fail_fast=True)] | None = Field(None, description="None of these items")
    where: Where | None = Field(None, description="Items with one of the values of each field that is named")


class EventBody(_Body):
    user_id: Id
    item_id: Id
    type: Annotated[str, Field(min_length=1, max_length=64)] = "rating"
    value: Annotated[
        float,
        Field(
            ge=-LARGEST_VALUE,
            le=LARGEST_VALUE,
            description="For types that enter the history, within the range of the loaded release: 1 to 5 for stars",
        ),
    ]
    timestamp_ms: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        None, description="Now if absent; a retry is recognised only if it repeats the timestamp"
    )
    request_id: RequestId | None = Field(None, description="The ranked request that this interaction answers")


class FeedbackBody(_Body):
    request_id: RequestId | None = Field(None, description="The ranked request of events that name none themselves")
    events: Annotated[list[EventBody], FailFast(), Field(min_length=1, max_length=MAX_EVENTS)]


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


class RecommendTimingReply(TimingReply):
    retrieve: float


class RankReply(BaseModel):
    request_id: str
    items: list[ItemReply]
    release: str
    model: ModelReply
    experiments: list[ExperimentReply]
    knowledge: KnowledgeReply
    degraded: list[str]
    timing_ms: TimingReply


class RecommendReply(RankReply):
    retrieved: dict[str, int] = Field(description="Candidates by their source: matching, neighbours, popular")
    timing_ms: RecommendTimingReply


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
    """What the operator allows."""

    max_candidates: int
    default_deadline_ms: float
    max_deadline_ms: float


@cache
def rank_body(limits: Limits) -> type[RankBody]:
    """``RankBody`` that knows the limits: validation stops at them, and the OpenAPI page tells them."""
    candidates = Annotated[list[CandidateBody], FailFast(), Field(min_length=1, max_length=limits.max_candidates)]
    return create_model(
        "RankBody", __base__=RankBody, candidates=(candidates, ...), deadline_ms=_deadline_field(limits)
    )


@cache
def recommend_body(limits: Limits) -> type[RecommendBody]:
    """``RecommendBody`` that knows the limits."""
    ids = Annotated[list[Id], Field(fail_fast=True, max_length=limits.max_candidates)] | None
    described = RecommendBody.model_fields
    return create_model(
        "RecommendBody",
        __base__=RecommendBody,
        count=(
            Annotated[int, Field(ge=1, le=limits.max_candidates)] | None,
            Field(None, description=described["count"].description),
        ),
        allow=(ids, Field(None, description=described["allow"].description)),
        deny=(ids, Field(None, description=described["deny"].description)),
        deadline_ms=_deadline_field(limits),
    )


@cache
def rank_options(limits: Limits) -> type[RankOptions]:
    """``RankOptions`` that knows the limits."""
    return create_model("RankOptions", __base__=RankOptions, deadline_ms=_deadline_field(limits))


def _deadline_field(limits: Limits) -> Any:
    return Annotated[float, Field(gt=0, le=limits.max_deadline_ms)] | None, Field(None, description=_DEADLINE)
