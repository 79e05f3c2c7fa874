"""The model server of the reranker is killed, hangs, and answers rubbish."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from models.contract.reranker import Canary
from tests.chaos.rows import UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import Service, Stand, eventually, url_of
from tests.chaos.traffic import Traffic
from tests.servers import free_ports
from tests.service.reranking.conftest import IDS, PROMPT, likes, written
from tests.service.reranking.model_server import ModelServerDouble
from tests.service.tiny import ITEMS

PART = "Language models"
WORDS = frozenset({"no_rerank", "rerank_off", "rerank_busy", "rerank_late", "rerank_failed"})
FORCED = {"rerank": "force"}
ASKED_OF_CANARIES = (PROMPT.parts({}, [], "film a"), PROMPT.parts({}, [], "film d"))
"""Nobody's history is in them, but in every caller's."""

WELL, SAME_FOR_ALL, ITS_OWN = 0, 1, 2
"""What the server does: everything right; the canaries right and all else rubbish; everything rubbish."""


def inverted(prompt: str) -> float:
    """The other way round than the CTR model, so that orders tell who made them."""
    return round(1.0 - likes(prompt), 6)


RUBBISH: dict[str, bytes] = {
    "half of a JSON document": b'{"object": "list", "data": [{"index": 0, "sco',
    "HTML": b"<html><body>It works!</body></html>",
    "nothing": b"",
    "another document": b'{"choices": "none"}',
    "a list": b"[1, 2, 3]",
    "too few scores": b'{"data": [{"index": 0, "score": 0.5}]}',
    "scores of others": b'{"data": [{"index": 7, "score": 0.5}, {"index": -1, "score": 0.5}]}',
    "no numbers": b'{"data": [{"index": 0, "score": NaN}, {"index": 1, "score": NaN}, {"index": 2, "score": NaN}, '
    b'{"index": 3, "score": NaN}]}',
    "a number that is none": b'{"data": [{"index": 1e999, "score": 0.5}]}',
    "a number of 400 digits": b'{"data": [{"index": 0, "score": 1' + b"0" * 400 + b"}]}",
    "no probabilities": b'{"data": [{"index": 0, "score": 7}, {"index": 1, "score": -3}, {"index": 2, "score": 1e9}, '
    b'{"index": 3, "score": 0}]}',
    "text for numbers": b'{"data": [{"index": "zero", "score": "much"}]}',
    "nests of lists": b"[" * 100_000,
    "no text": bytes(range(128, 256)) * 50,
}
SLOWLY, BROKEN_OFF, ERROR = "a byte each 0.1 s", "fewer bytes than were announced", "500"
KINDS = [*RUBBISH, SLOWLY, BROKEN_OFF, ERROR]


class _Handler(BaseHTTPRequestHandler):
    """vLLM's routes, answered as ``mode`` and ``kind`` say."""

    protocol_version = "HTTP/1.1"
    double = ModelServerDouble(inverted)
    mode: Synchronized[int]
    kind: Synchronized[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_canary = self.path == "/tokenize" or body.get("query") == ASKED_OF_CANARIES[0].user
        if self.mode.value == WELL or (is_canary and self.mode.value == SAME_FOR_ALL):
            status, answer = self.double.answer(self.path, body, None)
            with suppress(OSError):
                self._send(status, json.dumps(answer).encode())
            return
        with suppress(OSError):
            kind = KINDS[self.kind.value % len(KINDS)]
            if kind == ERROR:
                self._send(500, b"<h1>Internal Server Error</h1>")
            elif kind == BROKEN_OFF:
                self._send(200, b'{"data"', announced=5000)
                self.close_connection = True
            elif kind == SLOWLY:
                self._send(200, b"", announced=5000)
                for _ in range(5000):
                    time.sleep(0.1)
                    self.wfile.write(b" ")
            else:
                self._send(200, RUBBISH[kind])

    def _send(self, status: int, content: bytes, announced: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _serve(port: int, mode: Synchronized[int], kind: Synchronized[int]) -> None:
    _Handler.mode, _Handler.kind = mode, kind
    _Server(("127.0.0.1", port), _Handler).serve_forever()


@dataclass
class ModelServerProcess:
    """A model server in a process of its own, and what it is told to do."""

    port: int
    mode: Synchronized[int]
    kind: Synchronized[int]
    process: SpawnProcess | None = None

    def start(self) -> None:
        self.process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(self.port, self.mode, self.kind), daemon=True
        )
        self.process.start()

    def signal(self, number: int) -> None:
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.join()


def model_server(stand: Stand) -> ModelServerProcess:
    (port,) = free_ports(1)
    context = multiprocessing.get_context("spawn")
    server = ModelServerProcess(port, context.Value(ctypes.c_int, WELL), context.Value(ctypes.c_int, 0))
    server.start()
    stand.stack.callback(server.kill)
    return server


def reranking_is(service: Service, state: str) -> bool:
    return bool(service.status()["stages"]["reranking"]["state"] == state)


def reranking(stand: Stand) -> tuple[ModelServerProcess, Service, Traffic, Traffic]:
    """A service with a reranker that is on, callers who ask for it, and callers who do not."""
    redis, models = stand.valkey(), model_server(stand)
    stand.install(redis.client)
    canary = Canary(prompts=ASKED_OF_CANARIES, probabilities=(inverted("film a"), inverted("film d")))
    service = stand.serve(
        url_of(redis), default_deadline_ms=2000, reranker=_folder(stand, canary),
        reranker_url=f"http://127.0.0.1:{models.port}", rerank_check_seconds=1,
    )  # fmt: skip
    eventually(lambda: reranking_is(service, "on"), "the reranker never was on")
    known = [item for item in ITEMS if item.id in IDS]
    others = stand.stack.enter_context(Traffic(service.port, stand.users, items=known, callers=2))
    asking = stand.traffic(service, items=known, body=FORCED, reranked=IDS, callers=2)
    return models, service, asking, others


def _folder(stand: Stand, canary: Canary) -> Path:
    return written(stand.folder / "reranker", weight=1.0, canaries=(canary,))


def of_both(asking: Traffic, others: Traffic, **more: Any) -> Outcome:
    """What came of those who asked for reranking. Of the others every answer must be as before, within its
    deadline, and about as soon."""
    outcome, plain = asking.outcome(**more), others.outcome()
    not_well = Goal(added=UNHINDERED).missed_by(plain)
    missed = (f"of {plain.requests} who asked for no reranking: {', '.join(not_well)}",) if not_well else ()
    heads = sum(not answer.words and answer.at >= (asking.trouble_began or 0.0) for answer in asking.answers)
    remark = f"{plain.requests} others, p99 {plain.added or 0.0:.1f}; {heads} heads were reranked; {outcome.remark}"
    return outcome.model_copy(update={"missed": (*outcome.missed, *missed), "remark": remark.rstrip("; ")})


@row(PART, "the reranker's model server killed, and started again 3 s later", Goal(words=WORDS))
def model_server_killed(stand: Stand) -> Outcome:
    models, service, asking, others = reranking(stand)
    with asking.trouble(), others.trouble():
        models.kill()
        stand.wait(3.0)
        models.start()
    eventually(lambda: reranking_is(service, "on"), "the reranker is not on again")
    asking.settle()
    return of_both(asking, others)


@row(PART, "the reranker's model server hangs for 4 s (SIGSTOP)", Goal(words=WORDS))
def model_server_hangs(stand: Stand) -> Outcome:
    models, service, asking, others = reranking(stand)
    with asking.trouble(), others.trouble():
        models.signal(signal.SIGSTOP)
        stand.wait(4.0)
        models.signal(signal.SIGCONT)
    eventually(lambda: reranking_is(service, "on"), "the reranker is not on again")
    asking.settle()
    return of_both(asking, others)


@row(PART, f"the reranker's model server answers its canaries, and all else by rubbish of {len(KINDS)} kinds in turn "
     "(no JSON, wrong lengths, NaN, HTML, 500, slow bytes); then everything by rubbish",
     Goal(words=WORDS), short=True)  # fmt: skip
def model_server_answers_rubbish(stand: Stand) -> Outcome:
    models, service, asking, others = reranking(stand)
    with asking.trouble(), others.trouble():
        models.mode.value = SAME_FOR_ALL
        for kind in range(len(KINDS)):
            models.kind.value = kind
            stand.wait(0.5)
        models.mode.value = ITS_OWN
        for kind in (0, 8):
            models.kind.value = kind
            eventually(lambda: reranking_is(service, "off"), "the reranker is on, though it answers rubbish")
        models.mode.value = WELL
    eventually(lambda: reranking_is(service, "on"), "the reranker is not on again")
    asking.settle()
    return of_both(asking, others)


@row(PART, "the language model of the jobs is killed, hangs, answers rubbish; jobs are killed while it answers")
def model_of_the_jobs(stand: Stand) -> Outcome:
    folder = "tests/offline/llm"
    return stand.tests(*(f"{folder}/test_{name}.py" for name in ("openai", "client", "refusals", "crash", "partial")))
