"""A real HTTP server with the shape of OpenAI's chat API that can be told to misbehave.

It answers every prompt with a text that depends only on the prompt, and remembers what it was asked.
"""

import asyncio
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

Fault = Callable[["ChatServer"], Awaitable[Response]]


def answer_to(text: str) -> str:
    """The server's answer to a prompt."""
    return f"answer to <{text}>"


def likeliest(text: str) -> list[dict[str, Any]]:
    """The server's likeliest first tokens of an answer: digits by the length of the prompt, then words."""
    ranked = [str((len(text) + at) % 5 + 1) for at in range(5)] + ["The", " I"]
    return [{"token": token, "logprob": -0.5 - at} for at, token in enumerate(ranked)]


def status(code: int, **headers: str) -> Fault:
    """A refusal that repeats the request's key, as some servers do."""

    async def fault(server: "ChatServer") -> Response:
        key = server.headers[-1].get("authorization", "")
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return JSONResponse({"error": f"told to fail, {key}"}, code, headers=names)

    return fault


def reply(body: Any) -> Fault:
    """Status 200 with any JSON."""

    async def fault(server: "ChatServer") -> Response:
        return JSONResponse(body)

    return fault


def said(text: str) -> Fault:
    """Status 200 with any text."""

    async def fault(server: "ChatServer") -> Response:
        return PlainTextResponse(text)

    return fault


garbage = said("<html>please wait</html>")
"""A proxy's error page."""


async def hang(server: "ChatServer") -> Response:
    """No answer while the server lives."""
    while not server.stopping.is_set():  # noqa: ASYNC110 - set by another thread
        await asyncio.sleep(0.01)
    return PlainTextResponse("too late")


class ChatServer:
    """State shared between the server's thread and the test."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.connections: set[int] = set()
        self.faults: dict[str, deque[Fault]] = {}
        self.delay: Callable[[str], float] = lambda text: 0.0
        self.gate = 0  # answer nobody before this many calls were in flight together
        self.in_flight = 0
        self.most_in_flight = 0
        self.dies_after: int | None = None  # answers; then the whole server goes down
        self.stopping = threading.Event()
        self.go_down: Callable[[], None] = lambda: None
        self.quiet: Callable[[], bool] = lambda: True  # no connection is open and no call is being served
        self.base_url = ""

    def fail(self, text: str, *faults: Fault) -> None:
        """Meet the next calls with this prompt text with these faults, in order."""
        self.faults.setdefault(text, deque()).extend(faults)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to become true in the server's thread."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the server never got there"
            time.sleep(0.001)

    async def chat(self, request: Request) -> Response:
        """Serve one call."""
        body = await request.json()
        text = body["messages"][-1]["content"]
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        self.asked[text] += 1
        assert request.client is not None
        self.connections.add(request.client.port)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            while self.most_in_flight < self.gate and not self.stopping.is_set():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            if self.faults.get(text):
                return await self.faults[text].popleft()(self)
            await asyncio.sleep(self.delay(text))
            if self.dies_after is not None and self.answered.total() >= self.dies_after:
                self.go_down()
                return await hang(self)  # never answered: the connection breaks
            self.answered[text] += 1
            usage = {"prompt_tokens": len(text), "completion_tokens": 7}
            choice: dict[str, Any] = {"message": {"content": answer_to(text)}}
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [{"top_logprobs": likeliest(text)[: body["top_logprobs"]]}]}
            return JSONResponse({"choices": [choice], "usage": usage})
        finally:
            self.in_flight -= 1


@contextmanager
def running_server() -> Iterator[ChatServer]:
    """Serve on a free port of 127.0.0.1 in a thread until the block ends."""
    server = ChatServer()
    app = FastAPI()
    app.post("/v1/chat/completions")(server.chat)
    listener = socket.create_server(("127.0.0.1", 0))
    server.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    config = uvicorn.Config(app, log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=2)
    web = uvicorn.Server(config)
    server.quiet = lambda: not web.server_state.connections and not web.server_state.tasks

    def go_down() -> None:
        web.should_exit = web.force_exit = True

    server.go_down = go_down
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    server.wait_until(lambda: web.started)
    try:
        yield server
    finally:
        server.stopping.set()
        web.should_exit = True
        thread.join(timeout=30)
        listener.close()
