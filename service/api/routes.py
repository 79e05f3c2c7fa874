"""The HTTP surface: reads a body, calls the domain, writes an answer. No ranking logic lives here."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from fastapi import Request
from msgspec import UNSET
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route

from service.access import Access, Scope, header_of
from service.api import answers, parsing
from service.api.cross_origin import preflight_response, shared
from service.api.docs import mount_docs
from service.api.fast_path import KEY_SCHEME, FastPathApp
from service.api.feedback import parse_feedback
from service.api.schemas import REFERENCE, ArmsReply, ExperimentReply, FeedbackReply, Limits
from service.errors import ErrorCode, MalformedRequest, ServiceError, TooLarge, Unavailable, Unsupported, no_release
from service.features.feedback import RedisFeedback
from service.features.rules import FeedbackRules
from service.forgetting.erasure import Erasure
from service.logs import note_request
from service.ranking.deadline import Deadline
from service.ranking.ports import LiveRelease
from service.ranking.ranker import Ranker
from service.ranking.types import RankRequest
from service.telemetry import Telemetry

INLINE_BYTES = 64 * 1024
"""Bodies up to this size are parsed on the event loop; a thread would cost more than it frees."""

_CHARSET = re.compile(rb"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)

_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that the routes call; built by the app, reached through ``app.state.service``."""

    ranker: Ranker
    feedback: RedisFeedback
    rules: FeedbackRules
    live: LiveRelease
    telemetry: Telemetry
    limits: Limits
    max_body_bytes: int
    access: Access
    erasure: Erasure
    status: Callable[[], dict[str, Any]]

    @property
    def limits_now(self) -> Limits:
        """The limits, with the ids that stand for nobody in the live release."""
        release = self.live.current()
        nobody = None if release is None else release.manifest.nobody
        return self.limits if nobody is None else replace(self.limits, nobody=frozenset(nobody))


Endpoint = Callable[[Service, Request], Awaitable[Response]]


async def rank(service: Service, request: Request) -> Response:
    """Order the candidates for the user, best first.

    What fails on the way costs quality, not the answer: `degraded` says what is missing from it. `timing_ms.total`
    counts from the arrival of the request's last byte, as the deadline does, or, behind others of its connection, from
    its turn; `queue` is how much of it the request waited, and was read, before its ranking began; the other times are
    those of the steps.
    """
    return await _ranked(service, request, parsing.parse_rank)


async def recommend(service: Service, request: Request) -> Response:
    """Find candidates for the user and order them as `/v1/rank` does.

    `retrieved` counts the candidates by their source. An answer without items found none that the request lets through.
    """
    return await _ranked(service, request, parsing.parse_recommend)


async def _ranked(
    service: Service, request: Request, parse: Callable[[bytes, Limits], tuple[RankRequest, float]]
) -> Response:
    raw = await read_body(request, service.max_body_bytes)
    service.access.take_bytes(request.state.key, len(raw))
    rank_request, deadline_ms = await _parsed(raw, parse, service.limits_now)
    note_request(rank_request.request_id)
    answer = await service.ranker.rank(rank_request, Deadline(deadline_ms / 1000.0, start=request.state.arrived))
    return answers.rank_response(answer)


async def feedback(service: Service, request: Request) -> Response:
    """Record what users did: a batch of events, or one bare event.

    When it is answered the events are stored, and the next ranking of their users sees those that enter the history.
    An event may leave out its type and, where it says nothing, its value: they are the loaded release's. `ignored`
    counts events that no ranking will use, with the reason. All events are valid or none is stored; a repeated request
    changes a history once if its events carry timestamps.
    """
    raw = await read_body(request, service.max_body_bytes)
    service.access.take_bytes(request.state.key, len(raw))
    release = service.live.current()
    schema = None if release is None else release.schema
    tombstones = service.erasure.tombstones.current
    parsed = await _parsed(raw, parse_feedback, schema, service.limits_now.nobody, tombstones)
    note_request(parsed.request_id)
    deadline = Deadline(service.limits.max_deadline_ms / 1000.0, start=request.state.arrived)
    await service.rules.check(parsed.interactions, parsed.places, parsed.history_types, request.state.key, deadline)
    await service.feedback.accept(parsed.interactions, parsed.history_types, deadline, tombstones)
    for reason, count in parsed.ignored.items():
        service.telemetry.feedback_ignored.labels(reason).inc(count)
    reply = FeedbackReply(len(parsed.interactions), parsed.request_id, parsed.ignored_replies() or UNSET)
    return answers.json_response(reply, parsed.request_id)


async def arms(service: Service, request: Request) -> Response:
    """Say which arms a unit is in, as `/v1/rank` would, without ranking anything.

    Pages may ask it from browsers, with a public API key.
    """
    raw = await read_body(request, service.max_body_bytes)
    service.access.take_bytes(request.state.key, len(raw))
    arms_request = parsing.parse_arms(raw, service.limits_now)
    note_request(arms_request.request_id)
    deadline = Deadline(service.limits.default_deadline_ms / 1000.0, start=request.state.arrived)
    taken = await service.ranker.arms(arms_request.unit, deadline)
    replies = [ExperimentReply(arm.layer, arm.experiment, arm.arm) for arm in taken]
    return answers.json_response(ArmsReply(arms_request.request_id, replies), arms_request.request_id)


async def preflight(service: Service, request: Request) -> Response:
    """What browsers ask before they call for a page."""
    return preflight_response(service.access, request)


async def healthz(service: Service, request: Request) -> Response:
    """Whether the process answers, whatever state its dependencies are in."""
    return answers.json_response({"status": "alive"})


async def readyz(service: Service, request: Request) -> Response:
    """Whether a release is loaded, so that requests can be ranked; 503 until then, and once the service is leaving."""
    if request.app.state.connections.draining:
        raise Unavailable("the service is leaving")
    release = service.live.current()
    if release is None:
        raise no_release()
    return answers.json_response({"status": "ready", "release": release.id})


async def metrics(service: Service, request: Request) -> Response:
    """All metrics in the Prometheus text format."""
    return Response(service.telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def status(service: Service, request: Request) -> Response:
    """The release that is served, the one that was refused and why, and stages that are off or degraded; for people.

    Where API keys are required, a request without one learns the release alone.
    """
    headers = request.scope["headers"]
    if service.access.is_required and header_of(headers, b"authorization") is None:
        release = service.live.current()
        return answers.json_response({"release": None if release is None else {"id": release.id}})
    service.access.check(headers, Scope.ADMIN)
    return answers.json_response(service.status())


async def read_body(request: Request, most: int) -> bytes:
    """The body, of at most ``most`` bytes. TooLarge before reading more than that, whatever the headers claim;
    Unsupported if it is compressed or not UTF-8.

    It is kept in the request's state too: should it be wrong, its error still carries the id that it names.
    """
    too_large = TooLarge(f"a body may have at most {most} bytes", field="body")
    headers = request.scope["headers"]
    _check_encoding(headers)
    declared = dict(headers).get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    chunks: list[bytes] = []
    size, more = 0, True
    while more:  # not request.stream(), which costs as much as all the rest of a small request's reading
        message = await request.receive()
        if message["type"] != "http.request":
            raise MalformedRequest("the body ended early", field="body")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > most:
            raise too_large
        more = message.get("more_body", False)
    raw = b"".join(chunks).removeprefix(BOM_UTF8)
    request.state.raw = raw
    if raw.startswith((BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE)):  # UTF-32 may begin as UTF-16 does
        raise Unsupported("the body is UTF-16 or UTF-32: send UTF-8", field="body")
    return raw


def _check_encoding(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Unsupported for a body that is compressed or not UTF-8."""
    for header, value in headers:
        coding = value.strip().lower()
        name = coding.decode(errors="replace")
        if header == b"content-encoding" and coding not in (b"", b"identity"):
            raise Unsupported(f"Content-Encoding {name} is not read: send the body as it is", field="body")
        if header == b"transfer-encoding" and coding != b"chunked":
            raise Unsupported(f"Transfer-Encoding {name} is not read: send the body in chunks at most", field="body")
        if header == b"content-type":
            charset = _CHARSET.search(value)
            if charset and charset[1].lower() not in _CHARSETS:
                name = charset[1].decode(errors="replace")
                raise Unsupported(f"the charset {name} is not read: JSON is UTF-8", field="body")


async def _parsed(raw: bytes, parse: Callable[Concatenate[bytes, P], T], *arguments: P.args, **options: P.kwargs) -> T:
    """``parse(raw, ...)``, of a long body in a thread, so that other requests are answered meanwhile."""
    if len(raw) <= INLINE_BYTES:
        return parse(raw, *arguments, **options)
    return await asyncio.to_thread(parse, raw, *arguments, **options)


def answered(route: str, endpoint: Endpoint, *scopes: Scope) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose every failure is the envelope, whose every answer is counted, and which needs an API key with
    one of the ``scopes``, if there are some, wherever keys are required."""

    async def answer(request: Request) -> Response:
        # Everything that comes later counts: reading and parsing the body, and waiting for other requests meanwhile.
        if not hasattr(request.state, "arrived"):  # no connection of ours said it
            request.state.arrived = time.monotonic()
        service: Service = request.app.state.service
        note_request("")
        try:
            request.state.key = service.access.check(request.scope["headers"], *scopes) if scopes else None
            response = await endpoint(service, request)
        except ServiceError as error:
            response = answers.error_response(error, await _request_id(request))
        except Exception:
            request_id = await _request_id(request)
            note_request(request_id)
            log.exception("a request to %s failed", route)
            response = answers.error_response(ServiceError("internal error"), request_id)
        service.telemetry.requests.labels(route, str(response.status_code)).inc()
        if log.isEnabledFor(logging.DEBUG):
            note_request(response.headers.get(answers.REQUEST_ID_HEADER) or parsing.new_request_id())
            milliseconds = (time.monotonic() - request.state.arrived) * 1000.0
            log.debug("%s %s: %s in %.1f ms", request.method, route, response.status_code, milliseconds)
        return response

    answer.__name__ = endpoint.__name__
    answer.__doc__ = endpoint.__doc__
    return answer


async def _request_id(request: Request) -> str:
    raw: bytes | None = getattr(request.state, "raw", None)
    given = None if raw is None else await _parsed(raw, parsing.request_id_in)
    return given or parsing.new_request_id()


async def _unrouted(request: Request, error: Exception) -> Response:
    """404 and 405 of the framework, in the envelope."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}.get(status, ErrorCode.REFUSED)
    service: Service = request.app.state.service
    service.telemetry.requests.labels("unrouted", str(status)).inc()
    refusal = ServiceError(str(getattr(error, "detail", code)), code=code)
    response = answers.error_response(refusal, parsing.new_request_id(), status)
    if code is ErrorCode.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(sorted(_methods_of(request)))
    return response


def _methods_of(request: Request) -> set[str]:
    """The methods of all routes with the path of the request; the framework names those of the first."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    fitting = (route.methods for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for methods in fitting for method in methods or ()}


def mount(app: FastPathApp, *, requires_keys: bool) -> None:
    """Put every route on ``app``. The app sets ``app.state.service`` before the first request."""
    for path, endpoint, scope, reply, body in (
        ("/v1/rank", rank, Scope.RANK, "RankReply", _schema("RankBody")),
        ("/v1/recommend", recommend, Scope.RANK, "RecommendReply", _schema("RecommendBody")),
        ("/v1/feedback", feedback, Scope.FEEDBACK, "FeedbackReply",
         {"anyOf": [_schema("FeedbackBody"), _schema("EventBody")]}),
    ):  # fmt: skip
        answer = app.fast["POST", path] = answered(path, endpoint, scope)
        app.post(path, openapi_extra=_documented(body, reply, requires_keys=requires_keys))(answer)
    answer = app.fast["POST", "/v1/arms"] = shared(answered("/v1/arms", arms, Scope.RANK, Scope.ARMS))
    page = _documented(_schema("ArmsBody"), "ArmsReply", requires_keys=requires_keys)
    app.post("/v1/arms", openapi_extra=page)(answer)
    app.options("/v1/arms", include_in_schema=False)(shared(answered("/v1/arms", preflight)))
    for path, endpoint, needed in (
        ("/healthz", healthz, None),
        ("/readyz", readyz, None),
        ("/metrics", metrics, Scope.METRICS),
        ("/v1/status", status, None),  # it looks itself how much it may say
    ):
        page = dict(_PAGES.get(path, {}))
        if requires_keys and path in _KEYED_PAGES:
            page["openapi_extra"] = secured()
        scopes = () if needed is None else (needed,)
        app.get(path, **page)(answered(path, endpoint, *scopes))
        app.head(path, include_in_schema=False)(answered(path, endpoint, *scopes))
    mount_docs(app)
    app.add_exception_handler(HTTPException, _unrouted)
    app.requires_keys = requires_keys


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(name=name)}


def answer_schema(text: str, name: str) -> dict[str, Any]:
    """An answer on the OpenAPI page, whose schema is that of ``name``."""
    return {"description": text, "content": {"application/json": {"schema": _schema(name)}}}


_KEYED_PAGES = ("/metrics", "/v1/status")
"""Pages that need an API key where keys are required; the status without one says little."""


def secured() -> dict[str, Any]:
    """The part of the OpenAPI page of every route that needs an API key."""
    refused = {
        "401": "No API key that is in force came with the request",
        "403": "The API key does not have the scope of the route",
    }
    responses = {status: answer_schema(text, "ErrorReply") for status, text in refused.items()}
    return {"security": [{KEY_SCHEME: []}], "responses": responses}


_PAGES: Mapping[str, Mapping[str, Any]] = {
    "/metrics": {"response_class": PlainTextResponse},
    "/readyz": {
        "openapi_extra": {"responses": {"503": answer_schema("No release is loaded, or it is leaving", "ErrorReply")}}
    },
}
"""What the OpenAPI page cannot know of routes that are looked at."""


def _documented(body: dict[str, Any], reply: str, *, requires_keys: bool) -> dict[str, Any]:
    """The part of the OpenAPI page that a route cannot declare because it reads and writes bytes."""
    replies = {
        200: ("Successful Response", reply),
        400: ("The body is not JSON", "ErrorReply"),
        408: ("The request was not complete in time", "ErrorReply"),
        413: ("The body is too large", "ErrorReply"),
        415: ("The body is compressed, or not UTF-8", "ErrorReply"),
        422: ("The request is invalid; `field` says where", "ErrorReply"),
        429: ("There is more to do than can be done; `retry_after_ms` says when to come again", "ErrorReply"),
        431: ("The headers are too large", "ErrorReply"),
        503: ("No release is loaded, or Redis is not there", "ErrorReply"),
    }
    page = secured() if requires_keys else {"responses": {}}
    responses = {str(code): answer_schema(text, name) for code, (text, name) in replies.items()}
    return page | {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": responses | page["responses"],
    }
