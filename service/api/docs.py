"""``/docs``: Swagger UI from packaged files, under a policy that lets the page load nothing from elsewhere.

The files are those of the package fastapi-offline; its own application is not used, since it starts the page by an
inline script, which the policy refuses.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI writes styles into its elements, and has its pictures in its styles."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lorank API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
"""
_FILES = ("favicon.png", "swagger-ui.css", "swagger-ui-bundle.js")


def mount_docs(app: Starlette) -> None:
    """Put the page and what it needs on ``app``."""
    package = importlib.util.find_spec("fastapi_offline")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "static"

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers=_HEADERS)

    async def start(_: Request) -> Response:
        return Response(_START, headers=_HEADERS, media_type="text/javascript")

    def file(name: str) -> Callable[[Request], Awaitable[Response]]:
        """A route's file is chosen here: what a request says of its URL is also what its ``Host`` says."""

        async def answer(_: Request) -> Response:
            return FileResponse(folder / name, headers=_HEADERS)

        return answer

    app.add_route("/docs", page, include_in_schema=False)
    app.add_route("/docs/start.js", start, include_in_schema=False)
    for name in _FILES:
        app.add_route(f"/docs/{name}", file(name), include_in_schema=False)
