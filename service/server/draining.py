"""The HTTP server of one process: uvicorn's, which leaves without losing a request.

Told to stop, uvicorn closes its socket and its idle connections at once: whatever callers had just sent is lost. This
one first says that it is leaving (``/readyz``: 503; every answer: ``Connection: close``) and goes on answering, so that
load balancers send their requests elsewhere; then it takes in whoever had connected, and waits for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.server.connections import Connections

HANDSHAKE_SECONDS, LAST_HANDSHAKE_SECONDS = 10.0, 2.0
"""Time in which a caller's TLS handshake must be complete, and that of one who comes, or is half-way, when the server
is leaving; asyncio would wait for a minute. It is not counted as a connection meanwhile."""


class DrainingServer(uvicorn.Server):
    """A server that drains for ``drain_seconds`` once SIGTERM says so; Ctrl-C is not waited for.

    ``beat`` is called every .1 s as long as the event loop turns, from when the application is ready.
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float, beat: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._drain_seconds, self._beat = drain_seconds, beat

    @property
    def _connections(self) -> Connections:
        connections: Connections = self.config.loaded_app.state.connections
        return connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """SystemExit with status 1 if the application did not begin; uvicorn's own is that of a port in use."""
        if self.config.ssl is not None:  # uvicorn hands nothing on but the context
            loop = asyncio.get_running_loop()
            own: Any = functools.partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE_SECONDS)
            loop.create_server = own  # type: ignore[method-assign]
        try:
            await super().startup(sockets)
        except SystemExit:
            raise SystemExit(1 if self.lifespan.should_exit else STARTUP_FAILURE) from None

    async def on_tick(self, counter: int) -> bool:
        self._beat()
        return await super().on_tick(counter)

    async def main_loop(self) -> None:
        await super().main_loop()
        self._connections.draining = True
        until = time.monotonic() + (0.0 if signal.SIGINT in self._captured_signals else self._drain_seconds)
        counter = 0
        while time.monotonic() < until and not self.force_exit:
            counter += 1
            await self.on_tick(counter)
            await asyncio.sleep(0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.draining = True  # also of a server that was told to stop before it was ready
        waiting = [listening.dup() for listening in sockets or []]
        for listening in waiting:
            listening.listen(0)  # no queue any more, for no process of the port
        for server in self.servers:
            server.close()
        for listening in waiting:
            await self._take_in(listening)
        until = time.monotonic() + (LAST_HANDSHAKE_SECONDS if self.config.ssl is not None else 0.0)
        while self._connections.coming and time.monotonic() < until:  # noqa: ASYNC110 - asyncio tells of no failed ones
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _take_in(self, listening: socket.socket) -> None:
        """Accept whoever has connected, and close the socket at once: later ones are refused, which loses nothing."""
        loop, accepted = asyncio.get_running_loop(), []
        tls = self.config.ssl
        options: Any = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": LAST_HANDSHAKE_SECONDS}
        listening.setblocking(False)
        with listening, contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(listening.accept()[0])
        taken = [loop.connect_accepted_socket(self._protocol, caller, **options) for caller in accepted]
        await asyncio.gather(*taken, return_exceptions=True)  # a handshake may fail, which is its caller's matter

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
