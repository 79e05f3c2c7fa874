"""Answers as bytes. The hot path writes JSON with msgspec and never validates what the domain already typed."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from service.errors import ServiceError
from service.ranking.types import RankAnswer

REQUEST_ID_HEADER = "X-Request-Id"

_ENCODER = msgspec.json.Encoder()


def json_response(document: Any, request_id: str | None = None, status: int = 200) -> Response:
    headers = None if request_id is None else {REQUEST_ID_HEADER: request_id}
    return Response(_ENCODER.encode(document), status, headers, "application/json")


class _Explained(msgspec.Struct, gc=False):
    score_without_knowledge: float


class _Item(msgspec.Struct, gc=False, omit_defaults=True):
    id: str
    score: float
    rank: int
    explain: _Explained | None = None


def rank_response(answer: RankAnswer) -> Response:
    """A ranked request as it goes over the wire."""
    items = list(map(_Item, answer.ids, answer.scores, range(1, len(answer.ids) + 1)))
    if answer.without_knowledge is not None:
        for item, score in zip(items, answer.without_knowledge, strict=True):
            item.explain = _Explained(score)
    model = answer.manifest.model
    retrieved = {} if answer.retrieved is None else {"retrieved": dict(answer.retrieved)}
    document = {
        "request_id": answer.request_id,
        "items": items,
        "release": answer.manifest.id,
        "model": {"name": model.name, "version": model.version},
        "experiments": [{"layer": arm.layer, "experiment": arm.experiment, "arm": arm.arm} for arm in answer.arms],
        "knowledge": {
            "fresh": answer.knowledge.fresh,
            "stale": answer.knowledge.stale,
            "missing": answer.knowledge.missing,
        },
        **retrieved,
        "degraded": list(answer.degraded),
        "timing_ms": dict(answer.timing_ms),
    }
    return json_response(document, answer.request_id)


def error_response(error: ServiceError, request_id: str) -> Response:
    return envelope(error.status, error.code, error.message, request_id, error.field, error.retry_after_ms)


def envelope(
    status: int, code: str, message: str, request_id: str, field: str | None = None, retry_after_ms: int | None = None
) -> Response:
    """The one shape of every error."""
    detail: dict[str, Any] = {"code": code, "message": message, "request_id": request_id}
    if field is not None:
        detail["field"] = field
    if retry_after_ms is not None:
        detail["retry_after_ms"] = retry_after_ms
    response = json_response({"error": detail}, request_id, status)
    if retry_after_ms is not None:
        response.headers["Retry-After"] = str(-(-retry_after_ms // 1000))
    return response
