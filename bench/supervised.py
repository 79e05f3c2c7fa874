"""What ``bench.supervisors`` has supervised: an ASGI application that does as its environment says.

IMPORT_SECONDS  time that importing it takes; with HOLDS_INTERPRETER no other thread runs meanwhile, as in C code
FAILS           a file: while it exists, importing fails; what it says, "lifespan", fails the lifespan instead
NOTES           a file to which each process adds "import PID" and "ready PID"

``python -m bench.supervised PORT COUNT`` serves it by our supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn

from service.admission import Admission
from service.server.connections import ConnectionLimits, Connections
from service.server.draining import DrainingServer
from service.server.supervisor import Supervisor, WorkerState, end_with_parent

DRAIN_SECONDS = 1.0
CONNECTION = "service.server.connection:Connection"
WORK_SECONDS = 0.005
"""Time that a request takes."""


def note(word: str) -> None:
    """Tell ``bench.supervisors`` about this process."""
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{word} {os.getpid()}\n")


class Application:
    """Answers with its process id; ``/readyz`` with 503 while it drains; ``/block`` never, nor anything after it."""

    def __init__(self) -> None:
        note("import")
        importlib.import_module(CONNECTION.partition(":")[0])  # as long for all
        seconds, fails = float(os.environ.get("IMPORT_SECONDS", "0")), Path(os.environ["FAILS"])
        if "HOLDS_INTERPRETER" in os.environ:
            ctypes.PyDLL(None).usleep(int(seconds * 1e6))
        else:
            time.sleep(seconds)
        self.failure = fails.read_text() if fails.exists() else ""
        if self.failure == "import":
            raise RuntimeError("this import fails")
        self.state = SimpleNamespace(connections=Connections(ConnectionLimits(), Admission(1.0)))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["path"] == "/block":
            note("block")
            time.sleep(3600.0)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(WORK_SECONDS)
        draining = self.state.connections.draining
        status = 503 if draining and scope["path"] == "/readyz" else 200
        body = str(os.getpid()).encode()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        if self.failure:
            await send({"type": "lifespan.startup.failed", "message": "it fails"})
            return
        note("ready")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


def work(listening: socket.socket, state: WorkerState) -> None:
    """A worker of our supervisor."""
    end_with_parent()

    def noted() -> None:
        state.note(is_ready=True)

    config = uvicorn.Config(Application(), loop="asyncio", http=CONNECTION, proxy_headers=False, access_log=False)
    server = DrainingServer(config, DRAIN_SECONDS, noted)
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    with contextlib.suppress(KeyboardInterrupt):
        server.run([listening])


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=2048)
    sys.exit(0 if Supervisor(work, listening, int(sys.argv[2]), DRAIN_SECONDS).run() else 1)
