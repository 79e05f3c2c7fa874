"""Calls from pages of other origins (CORS): to one route, each with a public key of its own. All other routes tell
browsers nothing, which then keep their answers from pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request
from starlette.responses import Response

from service.access import Access
from service.api.answers import REQUEST_ID_HEADER
from service.errors import Forbidden

ASKED_AGAIN_SECONDS = 600
"""How long a browser remembers that it may call."""

_READABLE = ", ".join((REQUEST_ID_HEADER, "Retry-After", "RateLimit-Limit", "RateLimit-Remaining"))


def preflight_response(access: Access, request: Request) -> Response:
    """The answer to a browser that asks beforehand, without the API key. Forbidden if no key is for its origin."""
    if access.shared_with(request.scope["headers"], beforehand=True) is None:
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
        access: Access = request.app.state.service.access
        response.headers["Vary"] = "Origin"
        origin = access.shared_with(request.scope["headers"], beforehand=request.method == "OPTIONS")
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _READABLE
        return response

    shared_answer.__name__ = answer.__name__
    shared_answer.__doc__ = answer.__doc__
    return shared_answer
