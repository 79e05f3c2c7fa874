"""Clients of several languages with their default settings call every route of a real service, and understand every
answer: what it is for Python's http.client it is for all of them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from models.contract.keys import Keys
from offline.child import child_python
from tests.conftest import ROOT, clean_environment
from tests.e2e.calls import CALLS, ROUTES, Answer, Call
from tests.service.conftest import free_port
from tests.service.tiny import Publisher

PROGRAMS = Path(__file__).parent / "clients"

Send = Callable[[Call], Answer]
CONNECTIONS_AT_MOST = 1 + sum(call.status == 413 or call.method == "HEAD" for call in CALLS)
"""A body that is refused unread ends its connection; Node's fetch ends its own after HEAD, for the sake of servers that
answer it with a body."""


@pytest.fixture(scope="module")
def port(shared_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of ``python -m service`` with the tiny release."""
    folder, port = tmp_path_factory.mktemp("clients"), free_port()
    with redis.Redis.from_url(shared_valkey) as store:
        Publisher(store, Keys("lorank:clients"), folder / "artifacts" / "clients").publish()
    settings = {
        "LORANK_REDIS_URL": shared_valkey, "LORANK_KEY_PREFIX": "lorank:clients", "LORANK_DATA_DIR": str(folder),
        "LORANK_PORT": str(port), "LORANK_DEFAULT_DEADLINE_MS": "10000", "LORANK_MAX_DEADLINE_MS": "10000",
    }  # fmt: skip
    with subprocess.Popen(child_python("-m", "service"), cwd=ROOT, env=clean_environment() | settings) as process:
        until = time.monotonic() + 120.0
        while not _is_ready(port):
            assert time.monotonic() < until
            time.sleep(0.05)
        yield port
        process.terminate()


def _is_ready(port: int) -> bool:
    try:
        with standard(port) as send:
            return send(Call("", "GET", "/readyz")).status == 200
    except OSError:
        return False


@contextmanager
def standard(port: int) -> Iterator[Send]:
    """http.client, with one connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:

        def send(call: Call) -> Answer:
            is_chunked = call.mode == "chunked"
            body = _body(call)
            connection.request(call.method, call.target, body, call.headers, encode_chunked=is_chunked)
            response = connection.getresponse()
            return Answer(response.status, response.getheader("allow", ""), response.read())

        yield send


@pytest.fixture(scope="module")
def answers(port: int) -> dict[str, Answer]:
    """What http.client gets, over one connection."""
    with standard(port) as send:
        return {call.name: send(call) for call in CALLS}


ADMINISTRATIVE = ("/v1/users/", "/v1/requests", "/v1/reports")
"""Beginnings of the routes that change or tell what others' calls are compared with: tests/service calls them."""


def test_there_is_a_call_of_every_route(port: int, answers: dict[str, Answer]) -> None:
    paths = json.loads(answers["document"].body)["paths"]
    called = {path: methods for path, methods in paths.items() if not path.startswith(ADMINISTRATIVE)}
    documented = {(method.upper(), path) for path, methods in called.items() for method in methods}
    assert {(call.method, call.target) for call in ROUTES} == documented
    assert {name: answer.status for name, answer in answers.items()} == {call.name: call.status for call in CALLS}
    assert len(answers["long answer"].body) > 100_000
    assert answers["OPTIONS rank"].allow == "POST"
    assert answers["OPTIONS status"].allow == "GET, HEAD"


def _body(call: Call) -> Any:
    """The body as the clients of Python take it: one of no known length is sent in chunks."""
    return iter([call.body[:10], call.body[10:]]) if call.mode == "chunked" else call.body or None


@contextmanager
def httpx2_client(port: int) -> Iterator[Send]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def send(call: Call) -> Answer:
            response = client.request(call.method, call.target, content=_body(call), headers=dict(call.headers))
            return Answer(response.status_code, response.headers.get("allow", ""), response.content)

        yield send


@contextmanager
def requests_session(port: int) -> Iterator[Send]:
    with pytest.importorskip("requests").Session() as session:

        def send(call: Call) -> Answer:
            url = f"http://127.0.0.1:{port}{call.target}"
            response = session.request(call.method, url, data=_body(call), headers=call.headers, timeout=60)
            return Answer(response.status_code, response.headers.get("allow", ""), response.content)

        yield send


@contextmanager
def urllib_opener(port: int) -> Iterator[Send]:
    def send(call: Call) -> Answer:
        url = f"http://127.0.0.1:{port}{call.target}"
        request = urllib.request.Request(url, _body(call), dict(call.headers), method=call.method)
        try:
            response = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return Answer(response.status, response.headers.get("allow", ""), response.read())

    yield send


@pytest.mark.parametrize("client", [httpx2_client, requests_session, urllib_opener])
def test_clients_of_python_get_the_same(
    port: int, answers: dict[str, Answer], client: Callable[[int], AbstractContextManager[Send]]
) -> None:
    with client(port) as send:
        for call in CALLS:
            assert send(call).comparable == answers[call.name].comparable, call.name


def _program(*command: str) -> Callable[[int, Path], dict[str, Answer]]:
    """A program that reads calls and writes answers."""

    def run(port: int, _: Path) -> dict[str, Answer]:
        lines = "".join(f"{call.line}\n" for call in CALLS).encode()
        base = f"http://127.0.0.1:{port}"
        environment = os.environ | {"GOTOOLCHAIN": "local", "GOTELEMETRY": "off"}  # or Go would fetch and count
        ended = subprocess.run(
            [*command, base], input=lines, cwd=PROGRAMS, env=environment, capture_output=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr.decode()
        reports = [json.loads(line) for line in ended.stdout.splitlines()]
        failed = [report for report in reports if "error" in report]
        assert not failed
        return {of["call"]: Answer(of["status"], of["allow"], b64decode(of["body"])) for of in reports}

    return run


def _curl(*options: str) -> Callable[[int, Path], dict[str, Answer]]:
    """curl, with one process for all calls."""

    def run(port: int, folder: Path) -> dict[str, Answer]:
        command = ["curl"]
        for at, call in enumerate(CALLS):
            (folder / f"{at}.body").write_bytes(call.body)
            command += ["--next", "-s", "-g", *options, "-o", str(folder / f"{at}.answer")]
            command += ["-w", "%{http_code} %header{allow}\n", *_curl_options(call, folder / f"{at}.body")]
            command.append(f"http://127.0.0.1:{port}{call.target}")
        command.pop(1)
        ended = subprocess.run(command, capture_output=True, timeout=120, text=True)
        assert ended.returncode == 0, ended.stderr
        reports = [line.split(" ", 1) for line in ended.stdout.splitlines()]
        assert len(reports) == len(CALLS)
        bodies = [
            b"" if call.method == "HEAD" else (folder / f"{at}.answer").read_bytes() for at, call in enumerate(CALLS)
        ]
        return {
            call.name: Answer(int(status), allow, body)
            for call, (status, allow), body in zip(CALLS, reports, bodies, strict=True)
        }

    return run


def _curl_options(call: Call, body: Path) -> Sequence[str]:
    options = ["--head"] if call.method == "HEAD" else ["-X", call.method]
    for name, value in call.headers.items():
        options += ["-H", f"{name}: {value}"]
    if call.body:
        options += ["--data-binary", f"@{body}"]
    asked = {"chunked": "Transfer-Encoding: chunked", "expect": "Expect: 100-continue"}
    return [*options, "-H", asked[call.mode]] if call.mode in asked else options


def _peers(port: int) -> set[str]:
    """Ports at the other ends of all connections with a port of this machine, also of those that were just closed."""
    seen = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            ends = [end.rpartition(":")[2] for end in line.split()[1:3]]
            if f"{port:04X}" in ends:
                seen.update(ends)
    return seen - {f"{port:04X}", "0000"}


@pytest.mark.parametrize(
    ("tool", "run"),
    [
        pytest.param("java", _program("java", "Client.java"), id="java"),
        pytest.param("node", _program("node", "client.mjs"), id="node"),
        pytest.param("go", _program("go", "run", "client.go"), id="go"),
        pytest.param("curl", _curl("--http2"), id="curl"),
        pytest.param("curl", _curl("--http1.1", "--compressed"), id="curl, compressed"),
    ],
)
def test_other_clients_get_the_same_and_keep_their_connection(
    port: int, answers: dict[str, Answer], tmp_path: Path, tool: str, run: Callable[[int, Path], dict[str, Answer]]
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    before = _peers(port)
    reported = run(port, tmp_path)
    assert len(_peers(port) - before) <= CONNECTIONS_AT_MOST
    for call in CALLS:
        assert reported[call.name].comparable == answers[call.name].comparable, call.name
