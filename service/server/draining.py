"""The HTTP server of one process: uvicorn's, which leaves without losing a request.

Told to stop, uvicorn closes its socket and its idle connections at once: whatever callers had just sent is lost. This
one first says that it is leaving (``/readyz``: 503; every answer: ``Connection: close``) and goes on answering, so that
load balancers send their requests elsewhere; then it takes in whoever had connected, and waits for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.server.connections import Connections


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
        await super().shutdown(sockets)

    async def _take_in(self, listening: socket.socket) -> None:
        """Accept whoever has connected, and close the socket at once: later ones are refused, which loses nothing."""
        loop, accepted = asyncio.get_running_loop(), []
        listening.setblocking(False)
        with listening, contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(listening.accept()[0])
        for caller in accepted:
            await loop.connect_accepted_socket(self._protocol, caller, ssl=self.config.ssl)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
