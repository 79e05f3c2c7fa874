"""The log of the service: a line about a request has its id, and none has what a request said of users and items."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import io
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.contract.keys import Keys
from service.access import ApiKey, KeysFile, Scope
from service.app import create_app
from service.exposures import ExposureLog
from service.logs import JsonLines, TextLines, configure_logging, note_request
from service.settings import Settings
from tests.conftest import ROOT
from tests.servers import Server, free_ports
from tests.service.conftest import Running
from tests.service.tiny import Publisher

PERSON, THING, WORD, PASSWORD = "person-7f3a91", "thing-c0ffee", "word-5ea1ed", "password-b0a710"
"""Distinctive: ids of a user and of an item, a part of a body, and the password of Redis."""


@pytest.fixture
def no_request() -> Iterator[None]:
    yield
    note_request("")


def record(name: str = "service.api.routes") -> logging.LogRecord:
    """Of an exception that quotes a user, and has another as its cause."""
    try:
        try:
            raise KeyError(PERSON)
        except KeyError as error:
            raise ValueError(f"no {PERSON} here") from error
    except ValueError:
        return logging.LogRecord(name, logging.ERROR, __file__, 1, "it %s", ("failed",), sys.exc_info())


def test_lines_of_text_and_of_json(no_request: None) -> None:
    for lines in (TextLines(), JsonLines()):
        note_request("")
        assert "request_id" not in lines.format(record())
        note_request("r-17")
        text = lines.format(record())
        assert PERSON not in text
        for word in ("it failed", "r-17", "builtins.ValueError at ", "builtins.KeyError at ", "test_logs.py"):
            assert word in text
        assert PERSON in lines.format(record("service.releases.watcher"))  # which knows files and no users
    line = json.loads(JsonLines().format(record()))
    assert (line["level"], line["logger"], line["request_id"]) == ("error", "service.api.routes", "r-17")
    assert line["time"].endswith("+00:00")


async def test_a_request_that_fails_is_told_by_its_id_and_where(
    service: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.handler.setFormatter(TextLines())
    monkeypatch.setattr(type(service.app.state.service.ranker), "rank", fail)
    answer = await service.http.post("/v1/rank", json=body("r-fails"))
    assert (answer.status_code, PERSON in answer.text) == (500, False)
    assert "service.api.routes a request to /v1/rank failed request_id=r-fails\nbuiltins.ValueError at" in caplog.text
    assert PERSON not in caplog.text


async def fail(*_: object) -> None:
    raise ValueError(f"{PERSON} is odd")


@pytest.fixture(params=["text", "json"])
def output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process that logs as the service does writes to stderr, at debug level."""
    root, stderr = logging.getLogger(), io.StringIO()
    former = root.level, root.handlers[:]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(root, "handlers", [])  # pytest's, which `force` would close
    configure_logging("debug", request.param)
    yield stderr
    logging.captureWarnings(False)
    root.setLevel(former[0])
    root.handlers[:] = former[1]


class Odd:
    """Whose description, and whose call, quote a user."""

    def __repr__(self) -> str:
        return f"Odd {PERSON}"

    def call(self, *_: object) -> None:
        raise ValueError(PERSON)


async def test_what_the_event_loop_says_by_itself_has_no_words_of_a_request(output: io.StringIO) -> None:
    loop, odd = asyncio.get_running_loop(), Odd()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    task = asyncio.create_task(fail(), name=PERSON)
    loop.call_soon(odd.call, PERSON.encode())
    waiting = asyncio.create_task(asyncio.Event().wait(), name=PERSON)
    await asyncio.sleep(0.01)
    loop.call_exception_handler({"message": f"Exception in callback f({PERSON!r})", "transport": odd})
    del task
    gc.collect()
    waiting.cancel()
    loop.set_debug(False)
    text = output.getvalue()
    for words in ("Task exception was never retrieved", "Exception in callback Odd.call", "Executing ... took 0."):
        assert words in text
    assert "builtins.ValueError at " in text
    assert "test_logs.py" in text
    assert PERSON not in text, [line for line in text.splitlines() if PERSON in line]


def test_what_python_and_libraries_say_by_themselves_has_no_words_of_a_request(output: io.StringIO) -> None:
    thread = threading.Thread(target=Odd().call, name=PERSON)
    thread.start()
    thread.join()
    gone = Odd()
    reference = weakref.ref(gone, Odd().call)
    del gone
    assert reference() is None
    warning = warnings.formatwarning(f"{PERSON} is odd", RuntimeWarning, __file__, 1)
    logging.getLogger("py.warnings").warning("%s", warning)  # as `logging.captureWarnings` does
    for name in ("httpx2", "httpcore2.http11", "redis.asyncio.connection", "push_response", "concurrent.futures"):
        logger = logging.getLogger(name)
        logger.info('HTTP Request: %s %s "%s %d %s"', "POST", f"http://a/{PERSON}", "HTTP/1.1", 200, PERSON)
        logger.debug(f"a command: {[PERSON]!r}, {Odd()!r}")
        logger.warning("a command: %(command)s", {"command": PERSON})
        try:
            raise KeyError(PERSON)
        except KeyError:
            logger.exception("a command of %r failed", PERSON)
    text = output.getvalue()
    for words in ("a thread failed", "an exception could not be raised", "RuntimeWarning", "HTTP Request: ... ...",
                  "builtins.ValueError at ", "builtins.KeyError at "):  # fmt: skip
        assert words in text
    assert PERSON not in text, [line for line in text.splitlines() if PERSON in line]
    said = ("uvicorn.error", logging.INFO, __file__, 1, "Uvicorn running on %s://%s:%d", ("http", "127.0.0.1", 8000))
    logging.getLogger().handle(logging.LogRecord(*said, None))  # servers of other tests may have set uvicorn's loggers
    assert "Uvicorn running on http://127.0.0.1:8000" in output.getvalue()


async def test_an_end_that_fails_is_not_told_in_words(
    settings: Settings, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn would log them as they come."""
    monkeypatch.setattr(ExposureLog, "__aexit__", fail)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        pass
    assert "not all could be closed" in output.getvalue()
    assert PERSON not in output.getvalue()


def body(request_id: str, **more: Any) -> dict[str, Any]:
    candidates = [{"id": THING, "features": {"genre": WORD}}, {"id": "a"}]
    return {"request_id": request_id, "user_id": PERSON, "candidates": candidates} | more


class Service:
    """A service as a process, which logs everything, over a Redis that can be killed."""

    def __init__(self, environment: dict[str, str], folder: Path, text: str) -> None:
        self.output = folder / "output"
        self._port, self._text = int(environment["LORANK_PORT"]), text
        with self.output.open("wb") as output:
            command = [sys.executable, "-m", "service"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    def asked(self, method: str, target: str, content: Any = None, text: str | None = None) -> tuple[int, str, str]:
        """Status, body and request id of an answer; status 0 while nobody listens."""
        raw = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        headers = {"Authorization": f"Bearer {self._text if text is None else text}"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
            try:
                connection.request(method, target, raw, headers)
            except ConnectionRefusedError:
                return 0, "", ""
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers.get("X-Request-Id", "")


def test_nothing_that_requests_say_is_in_the_log_nor_in_the_metrics(
    environment: dict[str, str], tmp_path: Path
) -> None:
    key, text = ApiKey.new("shop", [scope for scope in Scope if scope is not Scope.ARMS])
    path = tmp_path / "keys.json"
    path.write_text(KeysFile(keys=(key,)).model_dump_json())
    valkey = Server(tmp_path / "valkey", free_ports(1)[0])
    keys = Keys("lorank:tiny")
    Publisher(valkey.client, keys, tmp_path / "artifacts" / "tiny").publish()
    own = environment | {
        "LORANK_KEYS": str(path), "LORANK_LOG_LEVEL": "debug", "LORANK_LOG_FORMAT": "json",
        "LORANK_REDIS_URL": f"redis://default:{PASSWORD}@127.0.0.1:{valkey.port}", "PYTHONASYNCIODEBUG": "1",
        "LORANK_DEFAULT_DEADLINE_MS": "20000", "LORANK_MAX_DEADLINE_MS": "20000",
    }  # fmt: skip
    service = Service(own, tmp_path, text)
    event = {"user_id": PERSON, "item_id": THING, "value": 5}
    many = [event | {"timestamp_ms": 1_700_000_000_000 + at} for at in range(99)]
    try:
        until = time.monotonic() + 120
        while service.asked("GET", "/readyz")[0] != 200:
            assert time.monotonic() < until
            assert service.process.poll() is None, service.output.read_text()
            time.sleep(0.1)
        calls: list[tuple[int, tuple[Any, ...]]] = [
            (200, ("POST", "/v1/rank", body("r-good"))),
            (200, ("POST", "/v1/recommend", {"user_id": PERSON, "request_id": "r-found"})),
            (200, ("POST", "/v1/arms", {"user_id": PERSON})),
            (200, ("POST", "/v1/feedback", event)),
            (422, ("POST", "/v1/rank", body("r-wrong", arms={WORD: WORD}))),
            (422, ("POST", "/v1/rank", body("r-worse", candidates=[{"id": f"{THING}\n"}]))),
            (422, ("POST", "/v1/feedback", {"events": [event | {"value": 7, WORD: 1}]})),
            (400, ("POST", "/v1/rank", f'{{"user_id": "{PERSON}"'.encode())),
            (415, ("POST", "/v1/rank", json.dumps(body("r-utf")).encode("utf-16"))),
            (401, ("POST", "/v1/rank", body("r-locked"), f"{text[:-4]}AAAA")),
            (422, ("POST", "/v1/feedback", {"events": many})),
            (429, ("POST", "/v1/feedback", {"events": many[:30]})),
            (405, ("GET", f"/v1/users/{PERSON}")),
            (200, ("GET", f"/v1/users/{PERSON}/export")),
            (202, ("DELETE", f"/v1/users/{PERSON}")),
            (200, ("GET", "/v1/status")),
        ]  # fmt: skip
        answered = {}
        for status, call in calls:
            got, _, request_id = service.asked(*call)
            assert got == status, call
            if status not in (200, 404, 405) or call[0] == "POST":
                answered[request_id] = call
        status, metrics, _ = service.asked("GET", "/metrics")
        assert (status, "lorank_requests_total" in metrics) == (200, True)
        valkey.client.set(keys.user_history("broken"), "x" * 24)
        valkey.client.lpush(keys.user_history(f"{PERSON}-list"), "x")
        assert service.asked("POST", "/v1/feedback", event | {"user_id": f"{PERSON}-list"})[0] == 503
        valkey.kill()
        for at in range(3):
            status, answer, request_id = service.asked("POST", "/v1/rank", body(f"r-down-{at}"))
            assert (status, "no_features" in answer) == (200, True)
            answered[request_id] = ("rank",)
            assert service.asked("POST", "/v1/feedback", event)[0] == 503
    finally:
        service.process.terminate()
        service.process.wait(60)
        valkey.close()
    output = service.output.read_text()
    lines = [json.loads(line) for line in output.splitlines()]
    for secret in (PERSON, THING, WORD, PASSWORD, text, text.split("_", 2)[2], "Bearer"):
        assert secret not in output, [line for line in output.splitlines() if secret in line]
        assert secret not in metrics
    about_requests = [line for line in lines if line["logger"] == "service.api.routes"]
    assert all(line["request_id"] for line in about_requests)
    assert set(answered) <= {line["request_id"] for line in about_requests}
    assert {"r-good", "r-found", "r-wrong", "r-worse", "r-down-2"} <= set(answered)
    assert any("exposures cannot be written" in line["message"] for line in lines)
    assert any("exposures are lost" in line["message"] for line in lines)
