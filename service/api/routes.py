"""The HTTP surface: reads a body, calls the domain, writes an answer. No ranking logic lives here."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from models.contract.schema import FeatureSchema
from service.api import answers, bodies
from service.api.openapi import describe, takes
from service.errors import MalformedRequest, ServiceError, TooLarge, Unavailable
from service.ranking.deadline import Deadline
from service.ranking.ports import Feedback, LiveRelease
from service.ranking.ranker import Ranker
from service.telemetry import Telemetry

DEFAULT_HISTORY_TYPES: tuple[str, ...] = FeatureSchema.model_fields["history_types"].default
"""Types that enter the history while no release says otherwise: losing feedback because no model is loaded is worse."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes call; built by the app, reached through ``app.state.service``."""

    ranker: Ranker
    feedback: Feedback
    live: LiveRelease
    telemetry: Telemetry
    limits: bodies.Limits
    max_body_bytes: int
    status: Callable[[], dict[str, Any]]


Endpoint = Callable[[Service, Request], Awaitable[Response]]


async def rank(service: Service, request: Request) -> Response:
    raw = await read_body(request, service.max_body_bytes)
    arrived = time.monotonic()  # a slow upload is not the service's time
    request.state.raw = raw
    wanted, deadline_ms = bodies.parse_rank(raw, service.limits)
    answer = await service.ranker.rank(wanted, Deadline.since(arrived, deadline_ms / 1000.0))
    return answers.json_response(answers.rank_document(answer), wanted.request_id)


async def feedback(service: Service, request: Request) -> Response:
    raw = await read_body(request, service.max_body_bytes)
    request.state.raw = raw
    request_id, interactions = bodies.parse_feedback(raw)
    release = service.live.current()
    types = DEFAULT_HISTORY_TYPES if release is None else release.schema.history_types
    await service.feedback.accept(interactions, types, Deadline(service.limits.max_deadline_ms / 1000.0))
    return answers.json_response({"accepted": len(interactions), "request_id": request_id}, request_id)


async def healthz(service: Service, request: Request) -> Response:
    return answers.json_response({"status": "alive"})


async def readyz(service: Service, request: Request) -> Response:
    release = service.live.current()
    if release is None:
        raise Unavailable("no release is loaded", code="no_release", retry_after_ms=1000)
    return answers.json_response({"status": "ready", "release": release.id})


async def metrics(service: Service, request: Request) -> Response:
    return Response(service.telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def status(service: Service, request: Request) -> Response:
    return answers.json_response(service.status())


async def read_body(request: Request, most: int) -> bytes:
    """The body, of at most ``most`` bytes. TooLarge before reading more than that, whatever the headers claim."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise TooLarge(f"a body may have at most {most} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise TooLarge(f"a body may have at most {most} bytes")
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise MalformedRequest("the body ended early") from error
    return b"".join(chunks)


def _answered(route: str, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose every failure is the envelope, and whose every answer is counted."""

    async def answer(request: Request) -> Response:
        service: Service = request.app.state.service
        try:
            response = await endpoint(service, request)
        except ServiceError as error:
            response = answers.error_response(error, _request_id(request))
        except Exception:
            request_id = _request_id(request)
            log.exception("request %s failed", request_id)
            response = answers.envelope(500, "internal", "internal error", request_id)
        service.telemetry.requests.labels(route, str(response.status_code)).inc()
        return response

    answer.__name__ = endpoint.__name__
    answer.__doc__ = endpoint.__doc__
    return answer


def _request_id(request: Request) -> str:
    raw: bytes | None = getattr(request.state, "raw", None)
    found = None if raw is None else bodies.request_id_in(raw)
    return found or bodies.new_request_id()


async def _unrouted(request: Request, error: Exception) -> Response:
    """404 and 405 of the framework, in the envelope."""
    code = error.status_code if isinstance(error, HTTPException) else 500
    word = {404: "not_found", 405: "method_not_allowed"}.get(code, "refused")
    service: Service = request.app.state.service
    service.telemetry.requests.labels("unrouted", str(code)).inc()
    return answers.envelope(code, word, str(getattr(error, "detail", word)), bodies.new_request_id())


def mount(app: FastAPI) -> None:
    """Put every route on ``app``. The app sets ``app.state.service`` before the first request."""
    router = APIRouter()
    errors: dict[int | str, dict[str, Any]] = {
        code: {"model": bodies.ErrorReply, "description": text}
        for code, text in (
            (400, "The body is not JSON"),
            (413, "The body is too large"),
            (422, "The request is invalid; `field` says where"),
            (503, "No release is loaded, or Redis is not there"),
        )
    }
    router.post("/v1/rank", response_model=bodies.RankReply, responses=errors, openapi_extra=takes("RankBody"))(
        _answered("/v1/rank", rank)
    )
    router.post(
        "/v1/feedback",
        response_model=bodies.FeedbackReply,
        responses=errors,
        openapi_extra=takes("FeedbackBody", "EventBody"),
    )(_answered("/v1/feedback", feedback))
    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics), ("/v1/status", status)):
        router.get(path)(_answered(path, endpoint))
    app.include_router(router)
    app.add_exception_handler(HTTPException, _unrouted)
    describe(app)
