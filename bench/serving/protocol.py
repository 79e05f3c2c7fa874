"""A keep-alive HTTP connection that costs little, for load generators: requests are bytes, of answers only the status
counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit


class Connection(asyncio.Protocol):
    """A connection for one request at a time. Answers must carry their length."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport
        self.transport = transport

    def send(self, request: bytes) -> None:
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        fields = self._buffer[:head].lower()
        at = fields.index(b"content-length:") + 15
        end = head + 4 + int(fields[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < end:
            return
        self._buffer = self._buffer[end:]
        self.answered(fields.startswith(b"http/1.1 200"))

    def answered(self, well: bool) -> None:
        """The request under way was answered, with status 200 or another."""
        raise NotImplementedError


def requests_of(url: str, bodies: Sequence[bytes]) -> list[bytes]:
    """POST requests with JSON bodies, as they go over the wire."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), parts.port or 80
