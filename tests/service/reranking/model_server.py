"""A small HTTP server with vLLM's routes for scoring, whose answers and failures tests choose."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

YES, NO = 17, 23
"""Tokens of the two answers; every other word begins with a token of its own."""

Likes = Callable[[str], float]
"""The probability of yes to a whole prompt."""


class ModelServerDouble:
    """The server's answers, and the requests that it saw."""

    def __init__(self, likes: Likes) -> None:
        self.likes = likes
        self.delay = 0.0
        self.status = 200
        self.scores = True
        self.tokens = {" Yes": YES, " No": NO}
        self.reply: dict[str, Any] | None = None
        self.key: str | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.running = self.most_running = self.left = 0
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.url = ""

    def prompts(self) -> list[str]:
        """All prompts that were scored, in order of arrival."""
        prompts = []
        for route, body in self.requests:
            if route == "/generative_scoring":
                prompts += [body["query"] + item for item in body["items"]]
            elif route == "/v1/completions":
                prompts += body["prompt"]
        return prompts

    def release(self) -> None:
        """End all delays."""
        self._released.set()

    def answer(self, route: str, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append((route, body))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if self.delay and route != "/tokenize":
                self._released.wait(self.delay)
            return self._answer(route, body, key)
        finally:
            with self._lock:
                self.running -= 1

    def _answer(self, route: str, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]]:
        if self.key is not None and key != f"Bearer {self.key}":
            return 401, {"error": "Unauthorized"}
        if route == "/tokenize":
            return 200, {"tokens": self._tokens(body["prompt"])}
        if self.status != 200:
            return self.status, {"error": {"message": "as told"}}
        if self.reply is not None:
            return 200, self.reply
        if route == "/generative_scoring" and self.scores:
            scores = [self.likes(body["query"] + item) for item in body["items"]]
            entries = [{"index": at, "object": "score", "score": score} for at, score in enumerate(scores)]
            return 200, {"object": "list", "data": entries[::-1]}
        if route == "/v1/completions":
            return 200, {"choices": [self._choice(at, prompt) for at, prompt in enumerate(body["prompt"])]}
        return 404, {"detail": "Not Found"}

    def _tokens(self, text: str) -> list[int]:
        for word, token in self.tokens.items():
            if text.endswith(word):
                return [99] * (len(text) - len(word)) + [token]
        return [99] * len(text)

    def _choice(self, at: int, prompt: str) -> dict[str, Any]:
        likes = self.likes(prompt)
        yes, no = math.log(likes) - 1, math.log(1 - likes) - 1
        likeliest = {f"token_id:{YES}": yes, f"token_id:{NO}": no, "token_id:5": -0.1}
        return {"index": at, "text": "x", "logprobs": {"top_logprobs": [likeliest]}}


@contextmanager
def model_server(likes: Likes, port: int = 0) -> Iterator[ModelServerDouble]:
    double = ModelServerDouble(likes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = double.answer(self.path, body, self.headers.get("Authorization"))
            content = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()
                # A caller that has gone is noticed by writing to it once more, or by the end of what it sends.
            except OSError:
                double.left += 1

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    double.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield double
    finally:
        double.release()
        server.shutdown()
        server.server_close()
        thread.join()
        until = time.monotonic() + 5
        while double.running and time.monotonic() < until:
            time.sleep(0.01)
