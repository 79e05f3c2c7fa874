"""One HTTP connection: uvicorn's, with limits.

uvicorn bounds neither a head nor the time in which a request has to be complete, and httptools, its parser, drops the
body of a request that offers another protocol (``Upgrade: h2c``, which the JDK's and curl's clients do by default). So
a head is collected here until it is complete, checked, and handed on without the offer, which a server may ignore
(RFC 9110, 7.8); and a request begins when its body is complete. A caller that asks whether to go on is always told to:
after another answer a client may send a new request where the body was due, and the JDK's waits for ever. Nor does
uvicorn bound the time in which an answer has to be read: a connection whose answers nobody reads is read no further,
its request is not at work, and in the end it is cut. What is refused gets the envelope of every error.
"""

from __future__ import annotations

import fcntl
import math
import re
import socket
import struct
import termios
import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.admission import Elsewhere
from service.api.answers import error_response
from service.api.parsing import new_request_id
from service.errors import (
    HeadersTooLarge,
    MalformedRequest,
    Overloaded,
    RequestTimeout,
    ServiceError,
    TooLarge,
)
from service.server.connections import Connections

LINGER_SECONDS = 2.0
"""Time in which a refused caller may read the answer, while what it still sends is thrown away: a socket that is closed
with bytes unread makes its caller lose the answer."""

SILENT_SECONDS = 1.0
"""Time for which a connection that is just open may say nothing before it counts as idle: a caller who comes with many
others may not have come to speak."""

_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_OFFER = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r\n]*", re.IGNORECASE)
_TCP_INFO_BYTES, _LAST_DATA_RECEIVED = 104, 52  # of Linux' struct tcp_info


class Connection(HttpToolsProtocol):
    """A connection of those that the application has in ``state.connections``."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all: Connections = config.loaded_app.state.connections
        self._all.coming.add(self)
        self._head = bytearray()  # while it is not complete
        self._in_head = self._in_body = False  # what the parser is reading
        self._opened = math.inf  # when it was opened, until something comes
        self._began: float | None = None  # when the first byte of an incomplete request was seen
        self._head_bytes = 0  # in the parser, of no body: a head behind another request's body, or trailers
        self._unfinished = 0  # bytes of an incomplete request
        self._refused: float | None = None  # when the refusal was written, which may be still to come
        self._waiting: RequestResponseCycle | None = None  # for its body
        self._responses = 0  # that are complete, and behind which the next request has not begun
        self._unread: float | None = None  # since when the caller has not read enough of what it was answered

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._opened = time.monotonic()
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so itself, but not where the listening socket was opened by uvicorn; without it the second
            # of an answer's two parts waits for the first one's acknowledgement, 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._finish()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            return
        if self._in_head or self._in_body:
            self._head_bytes += len(data)
            self._parse(data)
            if (self._in_head or self._in_body) and self._head_bytes > self._all.limits.header_bytes:
                self._refuse(_large_head(self._all.limits.header_bytes))
        else:
            self._collect(data)

    def _collect(self, data: bytes) -> None:
        """Add to a head, and parse it once it is complete."""
        self._unset_keepalive_if_required()
        self._opened = math.inf
        if self._began is None:
            self._began = time.monotonic()
        self._all.note_busy(self)
        if not self._all.admits(self):
            self._refuse(Overloaded("there are too many connections", retry_after_ms=1000))
            return
        limits, searched = self._all.limits, max(0, len(self._head) - len(_HEAD_END) + 1)
        self._head += data
        end = self._head.find(_HEAD_END, searched)
        if (end if end >= 0 else len(self._head)) > limits.header_bytes:
            self._refuse(_large_head(limits.header_bytes))
        elif end < 0:
            self._hold(len(data))
        elif self._head.count(b"\r\n", 0, end) > limits.headers:
            self._refuse(HeadersTooLarge(f"a request may have at most {limits.headers} headers"))
        else:
            head, rest = bytes(self._head[:end]), bytes(self._head[end:])
            self._head = bytearray()
            self._parse((_OFFER.sub(b"", head) if b"upgrade" in head.lower() else head) + rest)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # CONNECT, or an offer behind another request's body
            self._refuse(MalformedRequest("this server does not change protocols"))
        except httptools.HttpParserCallbackError:  # of a callback here
            self._refuse(MalformedRequest("the target of the request is no path"))
        except httptools.HttpParserError as error:
            self._refuse(MalformedRequest(f"this is not HTTP/1.1: {error}"))

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._began is None:
            self._began = time.monotonic()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        super().on_headers_complete()
        declared = next((value for name, value in self.headers if name == b"content-length"), b"")
        if declared.isdigit() and int(declared) > self._all.limits.body_bytes:
            self._refuse(_large_body(self._all.limits.body_bytes))

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, without its pause: how much a body may take is bounded here."""
        if self._refused is not None or self.cycle.response_complete:
            return
        self.cycle.body += body
        self._head_bytes = 0
        self._hold(len(body))
        if len(self.cycle.body) > self._all.limits.body_bytes:
            self._refuse(_large_body(self._all.limits.body_bytes))
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._in_body, self._began = False, None
        if self._refused is not None:
            return
        self._finish()
        super().on_message_complete()
        if self._waiting is self.cycle:
            self.scope["state"]["arrived"] = time.monotonic() - self._seconds_unread()
            self._start_asgi_task(self.cycle, self.app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer a request when it is complete and has its turn. If others of the caller were before it, it
        arrives now: that it waited for them does not say that there is much to do."""
        if self.transport.is_closing():  # an earlier answer was the last
            return
        if cycle.more_body:
            if cycle.waiting_for_100_continue:
                self.transport.write(_GO_ON)
                cycle.waiting_for_100_continue = False
            self._waiting = cycle
            return
        self._waiting = None
        cycle.scope["state"].setdefault("arrived", time.monotonic())
        if self._all.draining:
            cycle.keep_alive = False
        if cycle.scope["method"] != "POST":  # probes, and what people ask
            super()._start_asgi_task(cycle, app)
        elif self._all.admission.admits(_waited(cycle.scope)):
            super()._start_asgi_task(cycle, self._admitted)
        else:
            self._turn_away(cycle.keep_alive)
            cycle.response_started = cycle.response_complete = True
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()

    async def _admitted(self, scope: Any, receive: Any, send: Any) -> None:
        """The application, counted as being at work unless it waits for its caller to read."""
        admission = self._all.admission

        async def send_on(message: Any) -> None:
            if self.flow.write_paused:
                with Elsewhere():
                    await self.flow.drain()
            await send(message)

        try:
            admission.begun(_waited(scope))
            await self.app(scope, receive, send_on)
        finally:
            admission.ended()

    def _turn_away(self, keep_alive: bool) -> None:
        """Answer a request that is not admitted."""
        admission = self._all.admission
        error = Overloaded("there is more to do than can be done in time", retry_after_ms=admission.retry_after_ms)
        self._all.on_refusal(error.status)
        self._write(error, keep_alive)

    def on_response_complete(self) -> None:
        """The next request of the connection begins. It may be turned away at once, which comes back here."""
        if self._refused is not None:
            self.transport.close()
            return
        self._responses += 1
        if self._responses > 1:  # the loop below is at work
            return
        while self._responses:
            super().on_response_complete()
            self._responses -= 1
        if self.flow.write_paused:
            self.flow.pause_reading()
        if self._is_idle:
            self._all.note_idle(self)

    def pause_writing(self) -> None:
        """The caller does not read: what it asks for meanwhile is not read either, or it would fill the memory."""
        super().pause_writing()
        self._unread = time.monotonic()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = None
        if not self.pipeline:
            self.flow.resume_reading()

    @property
    def _is_idle(self) -> bool:
        """Whether no request is under way, nor a part of one."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and self._began is None and self._refused is None

    def shutdown(self) -> None:
        """The server is leaving. A caller whose connection is idle may be about to send a request, which would be lost:
        it is answered if it comes soon."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_idle:
            self.transport.close()

    def close_if_idle(self) -> bool:
        if not self._is_idle or self.transport.is_closing() or self.transport.get_write_buffer_size():
            return False
        if self._opened < math.inf and time.monotonic() - self._opened < SILENT_SECONDS:
            return False
        if self._bytes_unread():
            return False
        self.transport.close()
        return True

    def sweep(self, now: float) -> None:
        """Refuse a request that has not been complete in time; close a connection that was refused, or whose answers
        nobody reads."""
        limits = self._all.limits
        if self._unread is None and self.transport.is_closing():  # and not closed, so something is still to be read
            self._unread = now
        if self._unread is not None and now - self._unread > limits.body_seconds:
            self._cut()
        elif self._refused is not None:
            if now - self._refused > LINGER_SECONDS:
                self.transport.abort()
        elif self._began is None:
            longest = limits.header_seconds if self._all.is_full else limits.idle_seconds
            if now - self._opened > longest:  # uvicorn looks after later pauses
                self.transport.close()
        elif self.flow.read_paused:  # by us: the rest of it may well be there
            self._began = now
        elif self._in_body:
            if now - self._began > limits.body_seconds:
                self._refuse(RequestTimeout(f"the body was not complete in {limits.body_seconds:g} s"))
        elif now - self._began > limits.header_seconds:
            self._refuse(RequestTimeout(f"the head was not complete in {limits.header_seconds:g} s"))

    def _cut(self) -> None:
        """Close the connection, and let the kernel forget what it has for the caller."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _hold(self, count: int) -> None:
        self._unfinished += count
        if not self._all.hold(count):
            self._refuse(Overloaded("too many bytes of unfinished requests are waiting", retry_after_ms=1000))

    def _finish(self) -> None:
        self._all.release(self._unfinished)
        self._unfinished = 0

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error, unless an earlier request is still to be answered; read no more. The first one counts:
        what is parsed of the same bytes afterwards may be wrong in other ways."""
        if self._refused is not None:
            return
        self._refused = math.inf
        self._finish()
        own = self.cycle if self._in_body else None
        former = self.cycle if own is None else None
        unanswered = len(self.pipeline) > 0 or (former is not None and not former.response_complete)
        self.pipeline.clear()
        if unanswered:
            return
        if own is not None:
            own.disconnected = True
            own.message_event.set()
            if own.response_started:
                self.transport.close()
                return
        self._refused = time.monotonic()
        self._all.on_refusal(error.status)
        self._write(error, keep_alive=False)
        if self.transport.can_write_eof():  # with TLS it stays open until its caller closes it, or the sweep does
            self.transport.write_eof()

    def _write(self, error: ServiceError, keep_alive: bool) -> None:
        response = error_response(error, new_request_id())
        headers = response.raw_headers if keep_alive else (*response.raw_headers, (b"connection", b"close"))
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", bytes(response.body)]))

    def _bytes_unread(self) -> int:
        """What the kernel has received and the event loop has not come to read."""
        sock = self.transport.get_extra_info("socket")
        if sock is None:
            return 0
        count: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0]
        return count

    def _seconds_unread(self) -> float:
        """How long ago the kernel received the last bytes, as far as it says; it knows it to some milliseconds."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_INFO"):
            return 0.0
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return 0.0
        if len(info) < _LAST_DATA_RECEIVED + 4:
            return 0.0
        milliseconds: int = struct.unpack_from("I", info, _LAST_DATA_RECEIVED)[0]
        return milliseconds / 1000.0


def _waited(scope: Any) -> float:
    """Seconds since a request was complete and had its turn on its connection."""
    arrived: float = scope["state"]["arrived"]
    return time.monotonic() - arrived


def _large_head(most: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"the request line and headers may have at most {most} bytes")


def _large_body(most: int) -> TooLarge:
    return TooLarge(f"a body may have at most {most} bytes", field="body")
