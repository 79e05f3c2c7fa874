"""``POST /v1/arms``: the arms of a unit, for whoever ranks elsewhere, pages in browsers among them.

It is the only route that pages of other origins may call, each with a public key of its own: browsers are told so here
(CORS), and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.responses import Response

from service.api import answers, parsing
from service.api.schemas import ArmsReply, ExperimentReply
from service.errors import Forbidden
from service.logs import note_request
from service.ranking.deadline import Deadline

if TYPE_CHECKING:
    from service.api.routes import Service

ASKED_AGAIN_SECONDS = 600
"""How long a browser remembers that it may call."""

_READABLE = ", ".join((answers.REQUEST_ID_HEADER, "Retry-After", "RateLimit-Limit", "RateLimit-Remaining"))


async def arms_of(service: Service, request: Request, raw: bytes) -> Response:
    """The arms that a body asks for."""
    asked = parsing.parse_arms(raw, service.limits_now)
    note_request(asked.request_id)
    deadline = Deadline(service.limits.default_deadline_ms / 1000.0, start=request.state.arrived)
    taken = await service.ranker.arms(asked.unit, deadline)
    replies = [ExperimentReply(arm.layer, arm.experiment, arm.arm) for arm in taken]
    return answers.json_response(ArmsReply(asked.request_id, replies), asked.request_id)


async def preflight(service: Service, request: Request) -> Response:
    """What a browser asks before it calls: whether pages of an origin may. It sends no API key with it."""
    if service.access.shared_with(request.scope["headers"], beforehand=True) is None:
        raise Forbidden("no public API key is for pages of this origin", field="Origin")
    response = Response(status_code=204)
    response.headers["Access-Control-Allow-Methods"] = "POST"
    response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
    response.headers["Access-Control-Max-Age"] = str(ASKED_AGAIN_SECONDS)
    return response


def shared(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, whose every answer, also an error, the pages of the key that came with the request may read."""

    async def shared_answer(request: Request) -> Response:
        response = await answer(request)
        service: Service = request.app.state.service
        response.headers["Vary"] = "Origin"
        origin = service.access.shared_with(request.scope["headers"], beforehand=request.method == "OPTIONS")
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _READABLE
        return response

    shared_answer.__name__ = answer.__name__
    shared_answer.__doc__ = answer.__doc__
    return shared_answer
