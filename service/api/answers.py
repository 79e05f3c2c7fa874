"""Answers as bytes. Nothing here validates what the domain already typed."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.json import Encoder
from starlette.responses import Response

from service.api import schemas
from service.errors import RateLimited, ServiceError
from service.ranking.types import RankAnswer

REQUEST_ID_HEADER = "X-Request-Id"

_ENCODER = Encoder()


def json_response(document: object, request_id: str | None = None, status: int = 200) -> Response:
    headers = None if request_id is None else {REQUEST_ID_HEADER: request_id}
    return Response(_ENCODER.encode(document), status, headers, "application/json")


def rank_response(answer: RankAnswer) -> Response:
    """The answer to a request that brought its candidates, or that had them retrieved."""
    items = list(map(schemas.ItemReply, answer.ids, answer.scores, range(1, len(answer.ids) + 1)))
    if answer.without_knowledge is not None:
        for item, score in zip(items, answer.without_knowledge, strict=True):
            item.explain = schemas.ExplainReply(score)
    model, knowledge = answer.manifest.model, answer.knowledge
    ranked = (
        answer.request_id,
        items,
        answer.manifest.id,
        schemas.ModelReply(model.name, model.version),
        [schemas.ExperimentReply(arm.layer, arm.experiment, arm.arm) for arm in answer.arms],
        schemas.KnowledgeReply(knowledge.fresh, knowledge.stale, knowledge.missing),
    )
    degraded: list[str] = list(answer.degraded)
    reply: schemas.RankReply | schemas.RecommendReply
    if answer.retrieved is None:
        reply = schemas.RankReply(*ranked, degraded, schemas.TimingReply(**answer.timing_ms))
    else:
        reply = schemas.RecommendReply(
            *ranked, dict(answer.retrieved), degraded, schemas.RecommendTimingReply(**answer.timing_ms)
        )
    return json_response(reply, answer.request_id)


def error_response(error: ServiceError, request_id: str, status: int | None = None) -> Response:
    """The one shape of every error; with another ``status`` than the error's class has."""
    retry_after_ms = error.retry_after_ms
    detail = schemas.ErrorDetail(
        error.code,
        error.message,
        request_id,
        UNSET if error.field is None else error.field,
        UNSET if retry_after_ms is None else retry_after_ms,
    )
    response = json_response(schemas.ErrorReply(detail), request_id, status or error.status)
    if isinstance(error, RateLimited):
        response.headers["RateLimit-Limit"] = f"{error.limit:g};w={error.seconds}"
        response.headers["RateLimit-Remaining"] = "0"
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if retry_after_ms is not None:
        response.headers["Retry-After"] = str(-(-retry_after_ms // 1000))
    return response
