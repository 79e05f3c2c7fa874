"""The application, and its busiest routes without the layers that FastAPI puts around every route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import Lifespan, Receive, Scope, Send

KEY_SCHEME = "API key"
"""Name of the way to authenticate on the OpenAPI page."""

Endpoint = Callable[[Request], Awaitable[Response]]


class FastPathApp(FastAPI):
    """FastAPI, except that the routes ``fast`` are called at once: no middleware, no dependencies, no validation.

    Their endpoints read the body themselves and turn every failure into an answer. They are routes of the application
    too, which documents them and answers requests with another method.

    ``schemas`` are those of the OpenAPI page by name: routes that read raw bytes declare none. ``requires_keys``:
    the page says how API keys are sent.
    """

    def __init__(self, lifespan: Lifespan[FastAPI]) -> None:
        super().__init__(
            title="Lorank",
            description="LLM-enhanced ranking",
            version="1",
            lifespan=lifespan,
            redirect_slashes=False,
            docs_url=None,  # service/api/docs.py
            redoc_url=None,
        )
        self.fast: dict[tuple[str, str], Endpoint] = {}
        self.schemas: Mapping[str, Any] = {}
        self.requires_keys = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self.fast.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        components = document.setdefault("components", {})
        components["schemas"] = self.schemas
        if self.requires_keys:
            components["securitySchemes"] = {KEY_SCHEME: {"type": "http", "scheme": "bearer"}}
        return document
