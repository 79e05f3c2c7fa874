"""The busiest routes, without the layers that FastAPI puts around every route and that they do not need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectApp(FastAPI):
    """FastAPI, except that routes in ``direct`` are called at once: no middleware, no dependencies, no validation.

    Their endpoints read the body themselves and turn every failure into an answer. They are routes of the application
    too, which documents them and answers whatever comes in another method.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.direct: dict[tuple[str, str], Endpoint] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self.direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
