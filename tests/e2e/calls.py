"""Requests as clients send them, with the status that they get, and what a client reports of an answer."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request. ``mode``: plain; chunked, without a length; expect, asking whether to go on where a client can."""

    name: str
    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    mode: str = "plain"
    status: int = 200

    @property
    def line(self) -> str:
        """As the programs of other languages read it."""
        headers = (f"{name}: {value}" for name, value in self.headers.items())
        return "\t".join((self.name, self.mode, self.method, self.target, b64encode(self.body).decode(), *headers))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client reports of an answer."""

    status: int
    allow: str
    body: bytes

    @property
    def comparable(self) -> tuple[int, str, Any]:
        """What no clock and no counter changes."""
        try:
            document = json.loads(self.body)
        except ValueError:
            lines = self.body.decode().splitlines()
            return self.status, self.allow, [line for line in lines if line.startswith(("<", "# TYPE"))]
        if "last_minute" in document:
            return self.status, self.allow, sorted(document)
        for changing in ("request_id", "timing_ms"):
            document.pop(changing, None)
            document.get("error", {}).pop(changing, None)
        return self.status, self.allow, document


RANK = json.dumps({"user_id": "u", "candidates": [{"id": item} for item in ("a", "e", "é", "本 🎬", 7)]}).encode()
LONG = json.dumps({"user_id": "u", "candidates": [{"id": f"{at:0200}"} for at in range(500)]}).encode()
EVENT = b'{"user_id": "writer", "item_id": "a", "value": 5, "timestamp_ms": 1700000000000}'

ROUTES = (
    Call("rank", "POST", "/v1/rank", RANK),
    Call("recommend", "POST", "/v1/recommend", b'{"user_id": "u", "top_k": 3}'),
    Call("feedback", "POST", "/v1/feedback", EVENT),
    Call("arms", "POST", "/v1/arms", b'{"user_id": "u"}'),
    Call("healthz", "GET", "/healthz"),
    Call("readyz", "GET", "/readyz"),
    Call("metrics", "GET", "/metrics"),
    Call("status", "GET", "/v1/status"),
)
"""A call of every route that the OpenAPI document has."""

SIDES = (
    *(Call(f"HEAD {c.name}", "HEAD", c.target, status=200 if c.method == "GET" else 405) for c in ROUTES),
    *(Call(f"OPTIONS {c.name}", "OPTIONS", c.target, status=405) for c in ROUTES if c.name != "arms"),
    Call("OPTIONS arms", "OPTIONS", "/v1/arms", status=403),  # no key is for pages
    Call("document", "GET", "/openapi.json"),
    Call("page", "GET", "/docs", headers={"Accept": "text/html"}),
    Call("rank for a browser", "POST", "/v1/rank", RANK, JSON | {"Accept": "text/html"}),
    Call("escaped path", "POST", "/v1/%72ank?a=b%20c", RANK),
    Call("no such path", "GET", "/v1/r%C3%A4nk", status=404),
    Call("long answer", "POST", "/v1/rank", LONG),
    Call("chunks", "POST", "/v1/rank", LONG, mode="chunked"),
    Call("small header names", "POST", "/v1/feedback", EVENT, {"content-type": "application/json"}),
    Call("no type", "POST", "/v1/feedback", EVENT, {}),
    Call("charset", "POST", "/v1/feedback", EVENT, {"Content-Type": "application/json; charset=utf-8"}),
    Call("latin-1", "POST", "/v1/feedback", EVENT, {"Content-Type": "text/plain; charset=latin-1"}, status=415),
    Call("byte order mark", "POST", "/v1/feedback", b"\xef\xbb\xbf" + EVENT),
    Call("gzip", "POST", "/v1/feedback", gzip.compress(EVENT, mtime=0), {"Content-Encoding": "gzip"}, status=415),
    Call("no JSON", "POST", "/v1/rank", b"{", status=400),
    Call("invalid", "POST", "/v1/rank", b'{"user_id": "u"}', status=422),
    Call("expects", "POST", "/v1/feedback", b" " * 1_100_000 + EVENT, mode="expect"),
    Call("expects in vain", "POST", "/v1/nowhere", b" " * 1_100_000, mode="expect", status=404),
    Call("expects, gzip", "POST", "/v1/feedback", b" " * 99, {"Content-Encoding": "gzip"}, "expect", 415),
    Call("another behind them", "GET", "/healthz"),
    Call("too large", "POST", "/v1/feedback", b" " * 4_500_000, status=413),
    Call("too large, in chunks", "POST", "/v1/feedback", b" " * 4_500_000, mode="chunked", status=413),
    Call("too large, expects", "POST", "/v1/feedback", b" " * 4_500_000, mode="expect", status=413),
    Call("the last", "POST", "/v1/rank", RANK),
)
"""What else clients do, with the status that they get."""

CALLS = ROUTES + SIDES
