"""HTTP connections over real sockets: what callers of every kind may send, and what is refused, in the envelope."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.admission import Admission
from service.api.fast_path import FastPathApp
from service.api.routes import read_body
from service.errors import ServiceError
from service.server import connection as connection_module
from service.server import connections as connections_module
from service.server.connection import Connection
from service.server.connections import ConnectionLimits, Connections
from tests.chaos.on_clients import answers_in, deaf, odd_framings
from tests.damage import FEW, damaged

LIMITS = ConnectionLimits(
    header_bytes=2000, headers=20, header_seconds=60.0, body_bytes=200_000, body_seconds=60.0, unfinished_bytes=250_000,
    connections=6,
)  # fmt: skip
IMPATIENT = replace(LIMITS, header_seconds=0.3, body_seconds=0.6, idle_seconds=0.3)
PLAIN = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
BODY = b'{"user_id":"u1","item_id":"b1","value":5}'
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LARGE_BYTES = 8 * 2**20
"""More than kernels take of an answer that nobody reads."""
LARGE = PLAIN + b"Content-Length: 5\r\n\r\nlarge"
EXPECTING, GO_ON = b"Expect: 100-continue\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"


class Server:
    """A server in a thread, and clients that speak to it byte by byte."""

    def __init__(self, port: int, connections: Connections) -> None:
        self.port, self.connections = port, connections

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port))
        client.settimeout(30.0)
        return client

    def answer(self, *parts: bytes, pause: float = 0.02) -> tuple[int, Any]:
        """Status and body of the answer to bytes that are sent in parts."""
        with self.connect() as client:
            for part in parts:
                client.sendall(part)
                time.sleep(pause)
            return answer_on(client)


def answer_on(client: socket.socket) -> tuple[int, Any]:
    data = b""
    while b"\r\n\r\n" not in data:
        received = client.recv(1)
        if not received:
            return 0, data
        data += received
    head, body = data.removesuffix(b"\r\n\r\n"), b""
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(headers[b"content-length"]):
        body += client.recv(int(headers[b"content-length"]) - len(body))
    status = int(head.split()[1])
    detail = json.loads(body)
    if status != 200:
        detail = detail["error"]
        assert detail["request_id"] == headers[b"x-request-id"].decode()
        assert headers[b"connection"] == b"close"
    return status, detail


def emptied(server: Server) -> None:
    """Wait until all callers are gone."""
    eventually(lambda: not len(server.connections))


@contextlib.contextmanager
def serving(limits: ConnectionLimits, admission: Admission | None = None) -> Iterator[Server]:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with connections.swept():
            yield

    async def echo(request: Request) -> Response:
        try:
            raw = await read_body(request, limits.body_bytes)
        except ServiceError as error:
            return Response(json.dumps({"refused": error.message}))
        if raw == b"slow":
            await asyncio.sleep(0.2)
        if raw == b"large":
            return Response(json.dumps("a" * LARGE_BYTES))
        waited = time.monotonic() - request.state.arrived
        return Response(json.dumps({"bytes": len(raw), "waited": waited}))

    connections = Connections(limits, admission or Admission(60.0))
    app = FastPathApp(lifespan)
    app.state.connections = connections
    app.fast["POST", "/echo"] = app.fast["GET", "/echo"] = echo
    config = uvicorn.Config(
        app, http=Connection, loop="asyncio", log_config=None, port=0, proxy_headers=False, timeout_keep_alive=60
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Server(server.servers[0].sockets[0].getsockname()[1], connections)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(connections_module, "SWEEP_SECONDS", 0.02)
    patch.setattr(connection_module, "LINGER_SECONDS", 0.2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def server(_quick: None) -> Iterator[Server]:
    with serving(LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def impatient(_quick: None) -> Iterator[Server]:
    with serving(IMPATIENT) as server:
        yield server


@pytest.mark.parametrize(
    "offer", [b"", OFFER, OFFER.lower(), OFFER.upper(), b"Upgrade: websocket\r\nConnection: upgrade\r\n"]
)
@pytest.mark.parametrize("body", [(LENGTH + BODY,), (LENGTH, BODY), (CHUNKED + CHUNKS,), (CHUNKED, CHUNKS)])
def test_an_offer_of_another_protocol_is_ignored(server: Server, offer: bytes, body: tuple[bytes, ...]) -> None:
    status, detail = server.answer(PLAIN + offer + body[0], *body[1:])
    assert (status, detail["bytes"]) == (200, len(BODY))


def test_a_request_may_come_byte_by_byte_and_another_behind_it(server: Server) -> None:
    with server.connect() as client:
        for byte in PLAIN + OFFER + LENGTH + BODY:
            client.sendall(bytes([byte]))
        assert answer_on(client)[1]["bytes"] == len(BODY)
        client.sendall(PLAIN + OFFER + LENGTH + BODY)
        assert answer_on(client)[1]["bytes"] == len(BODY)


def test_requests_that_are_sent_at_once_are_answered_in_order(server: Server) -> None:
    bodies = [b"slow", b"ab", b"a" * 100_000]
    with server.connect() as client:
        client.sendall(b"".join(PLAIN + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies))
        assert [answer_on(client)[1]["bytes"] for _ in bodies] == [4, 2, 100_000]


def test_a_caller_may_wait_to_be_told_to_go_on(server: Server) -> None:
    with server.connect() as client:
        client.sendall(PLAIN + EXPECTING + LENGTH)
        assert client.recv(100) == GO_ON
        client.sendall(BODY)
        assert answer_on(client)[1]["bytes"] == len(BODY)


def test_a_caller_that_waits_is_told_to_go_on_also_if_its_body_is_not_read(server: Server) -> None:
    """Answered at once, it might send its next request where the server reads on in the body."""
    with server.connect() as client:
        client.sendall(PLAIN + EXPECTING + b"Content-Encoding: gzip\r\n" + LENGTH)
        assert client.recv(100) == GO_ON
        client.sendall(BODY)
        assert "gzip is not read" in answer_on(client)[1]["refused"]
        client.sendall(PLAIN + EXPECTING + b"Content-Length: 200001\r\n\r\n")
        assert client.recv(len(GO_ON)) == GO_ON
        assert answer_on(client)[0] == 413


def test_a_caller_that_waits_behind_another_request_is_told_in_its_turn(server: Server) -> None:
    with server.connect() as client:
        client.sendall(PLAIN + b"Content-Length: 4\r\n\r\nslow" + PLAIN + EXPECTING + LENGTH)
        assert answer_on(client)[1]["bytes"] == 4
        assert client.recv(100) == GO_ON
        client.sendall(BODY)
        assert answer_on(client)[1]["bytes"] == len(BODY)


def test_trailers_are_read_over(server: Server) -> None:
    with server.connect() as client:
        for _ in range(2):
            client.sendall(PLAIN + CHUNKED + CHUNKS[:-2] + b"X-Digest: y\r\n\r\n")
            assert answer_on(client)[1]["bytes"] == len(BODY)


@pytest.mark.parametrize("rest", [b"0\r\n" + b"X: y\r\n" * 400, b"0\r\nX: " + b"y" * 2000, b"5;x=" + b"y" * 2000])
def test_trailers_and_what_is_said_of_chunks_have_a_bound(server: Server, rest: bytes) -> None:
    with server.connect() as client:
        client.sendall(PLAIN + EXPECTING + CHUNKED)
        assert client.recv(100) == GO_ON
        client.sendall(rest)
        status, detail = answer_on(client)
    assert (status, detail["message"]) == (431, "the request line and headers may have at most 2000 bytes")


@pytest.mark.parametrize(
    ("parts", "status", "says"),
    [
        ((PLAIN + b"X: " + b"y" * 2000 + b"\r\n",), 431, "may have at most 2000 bytes"),
        ((PLAIN + b"X: " + b"y" * 2000 + b"\r\n" + LENGTH + BODY,), 431, "may have at most 2000 bytes"),
        ((PLAIN, *[b"X: y\r\n" * 60] * 10), 431, "may have at most 2000 bytes"),
        ((PLAIN + b"X: y\r\n" * 30 + LENGTH + BODY,), 431, "at most 20 headers"),
        ((PLAIN + b"Content-Length: 200001\r\n\r\n",), 413, "at most 200000 bytes"),
        ((PLAIN + CHUNKED, *[b"c351\r\n" + b"a" * 50_001 + b"\r\n"] * 4), 413, "at most 200000 bytes"),
        ((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",), 400, "not HTTP/1.1"),
        ((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",), 400, "not HTTP/1.1"),
        ((b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",), 400, "is no path"),
        ((PLAIN + b"Transfer-Encoding: chunked\r\n" + LENGTH + BODY,), 400, "not HTTP/1.1"),
        ((b"POST /echo\xff HTTP/1.1\r\nHost: x\r\n" + LENGTH + BODY,), 400, "not HTTP/1.1"),
        ((PLAIN + LENGTH + BODY + PLAIN + OFFER + LENGTH + BODY,), 200, ""),  # then closed
    ],
)
def test_what_is_too_much_or_no_http_is_refused(
    server: Server, parts: tuple[bytes, ...], status: int, says: str
) -> None:
    refused, detail = server.answer(*parts, pause=0.0)
    assert refused == status
    assert status == 200 or says in detail["message"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [(PLAIN + LENGTH + BODY[:-1], "body was not complete in 0.6 s"), (PLAIN, "head was not complete in 0.3 s")],
)
def test_what_is_not_complete_in_time_is_refused(impatient: Server, request_: bytes, says: str) -> None:
    status, detail = impatient.answer(request_)
    assert (status, says in detail["message"]) == (408, True)


@FEW
@given(damaged(PLAIN + OFFER + LENGTH + BODY, PLAIN + CHUNKED + CHUNKS, PLAIN + EXPECTING + LENGTH + BODY))
def test_whatever_a_caller_sends_is_answered_or_refused(
    server: Server, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with server.connect() as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert {int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)} <= {
        100,
        200,
        400,
        404,
        405,
        408,
        413,
        431,
    }
    assert not caplog.records


def test_a_refused_caller_that_goes_on_sending_reads_the_answer(server: Server) -> None:
    with server.connect() as client:
        client.sendall(PLAIN + b"Content-Length: 5000000\r\n\r\n")
        for _ in range(50):
            client.sendall(b"a" * 100_000)
        assert answer_on(client)[0] == 413


def test_what_is_wrong_in_several_ways_is_refused_once(server: Server) -> None:
    """A body that is too large and too much beside another's, and then no HTTP."""
    refused: list[int] = []
    server.connections.on_refusal = refused.append
    with server.connect() as other:
        other.sendall(PLAIN + b"Content-Length: 150000\r\n\r\n" + b"a" * 130_000)
        time.sleep(0.05)
        status, _ = server.answer(PLAIN + CHUNKED + b"30d41\r\n" + b"a" * 200_001 + b"\r\nno chunk\r\n")
    assert refused == [status]
    assert status in (413, 429)


def test_a_bad_request_behind_a_good_one_loses_no_answer(server: Server) -> None:
    with server.connect() as client:
        client.sendall(PLAIN + b"Content-Length: 4\r\n\r\nslow" + b"no HTTP at all\r\n\r\n")
        assert answer_on(client)[1]["bytes"] == 4
        assert client.recv(10) == b""


def test_whoever_says_nothing_is_let_go(impatient: Server) -> None:
    with impatient.connect() as client:
        assert client.recv(10) == b""


def test_more_callers_than_there_is_room_for_are_refused(server: Server) -> None:
    emptied(server)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(6)]
        for client in clients:
            client.sendall(PLAIN + LENGTH + BODY[:-1])
        eventually(lambda: not server.connections._idle)
        refused, detail = server.answer(PLAIN + LENGTH + BODY)
        assert (refused, detail["message"], detail["retry_after_ms"]) == (429, "there are too many connections", 1000)
        clients[0].sendall(BODY[-1:])
        assert answer_on(clients[0])[0] == 200
    emptied(server)
    assert server.answer(PLAIN + LENGTH + BODY)[0] == 200


def test_who_has_been_idle_for_longest_makes_way_for_a_new_caller(server: Server) -> None:
    emptied(server)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(6)]
        for client in (*clients, clients[0]):
            client.sendall(PLAIN + LENGTH + BODY)
            assert answer_on(client)[0] == 200
        clients[1].sendall(PLAIN)
        eventually(lambda: len(server.connections._idle) == 5)
        for _ in range(3):
            new = stack.enter_context(server.connect())
            new.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_on(new)[0] == 200
        assert [client.recv(1) for client in clients[2:5]] == [b"", b"", b""]
        for client, request in ((clients[1], LENGTH + BODY), (clients[0], PLAIN + LENGTH + BODY)):
            client.sendall(request)
            assert answer_on(client)[0] == 200
    emptied(server)
    assert not server.connections._idle


def test_whoever_is_about_to_be_read_does_not_make_way(server: Server) -> None:
    emptied(server)
    with server.connect() as client:
        client.sendall(PLAIN + LENGTH + BODY)
        assert answer_on(client)[0] == 200
        connection, reached, sent = the_connection(server), threading.Event(), threading.Event()
        made_way: list[bool] = []

        def busy() -> None:
            reached.set()
            sent.wait(30.0)
            made_way.append(connection.close_if_idle())

        connection.loop.call_soon_threadsafe(busy)
        reached.wait()
        client.sendall(PLAIN + LENGTH + BODY)
        sent.set()
        assert answer_on(client)[0] == 200
    assert made_way == [False]
    emptied(server)


@pytest.mark.parametrize("behind", [LARGE * 2, b""])
def test_a_request_whose_caller_does_not_read_is_not_at_work(server: Server, behind: bytes) -> None:
    with deaf(server.port) as client:
        client.sendall(LARGE + behind)
        connection, admission = the_connection(server), server.connections.admission
        eventually(lambda: connection.flow.write_paused)
        eventually(lambda: admission.at_work == 0 and len(connection.tasks) == (1 if behind else 0))
        assert [status_on(client) for _ in range(1 + behind.count(b"large"))] == [200] * (1 + behind.count(b"large"))
        client.sendall(PLAIN + LENGTH + BODY)
        assert answer_on(client)[0] == 200
        assert not connection.flow.read_paused
    emptied(server)
    comes_to_rest(admission)


@pytest.mark.parametrize("sent", [LARGE, LARGE * 3, LARGE.replace(b"Host: x", b"Host: x\r\nConnection: close")])
def test_whoever_does_not_read_is_cut(sent: bytes) -> None:
    with serving(replace(IMPATIENT, idle_seconds=60.0)) as server, deaf(server.port) as client:
        client.sendall(sent)
        the_connection(server)
        emptied(server)


def test_an_answer_may_be_read_slowly() -> None:
    """Whoever goes on reading is not cut, however long all of it takes."""
    with serving(replace(IMPATIENT, body_seconds=1.0, idle_seconds=60.0)) as server, deaf(server.port) as client:
        requests = 6
        client.sendall(LARGE * requests)
        began = time.monotonic()
        for _ in range(requests):
            time.sleep(0.3)
            assert status_on(client) == 200
        assert time.monotonic() - began > server.connections.limits.body_seconds


def the_connection(server: Server) -> Any:
    """Of the only caller there is, or of any."""
    eventually(lambda: len(server.connections))
    return next(iter(server.connections._open))


def eventually(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_unfinished_bodies_have_a_bound_together(server: Server) -> None:
    unfinished = PLAIN + b"Content-Length: 150000\r\n\r\n" + b"a" * 130_000
    with server.connect() as other:
        other.sendall(unfinished)
        time.sleep(0.05)
        status, detail = server.answer(unfinished)
        assert (status, detail["message"]) == (429, "too many bytes of unfinished requests are waiting")
        other.sendall(b"a" * 20_000)
        assert answer_on(other)[1]["bytes"] == 150_000
    assert server.answer(unfinished + b"a" * 20_000)[1]["bytes"] == 150_000


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        (b"Content-Encoding: gzip\r\n", gzip.compress(BODY, mtime=0), "Content-Encoding gzip is not read"),
        (b"Content-Type: application/json; charset=utf-16\r\n", BODY.decode().encode("utf-16"), "charset utf-16"),
        (b"", BODY.decode().encode("utf-16"), "the body is UTF-16 or UTF-32"),
        (b"", BODY.decode().encode("utf-32"), "the body is UTF-16 or UTF-32"),
    ],
)
def test_an_encoding_that_is_not_read_is_named(server: Server, headers: bytes, body: bytes, says: str) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\n" + headers + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    assert says in server.answer(request)[1]["refused"]


def test_a_compressed_transfer_is_named(server: Server) -> None:
    status, detail = server.answer(PLAIN + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS)
    assert (status, detail["refused"].startswith("Transfer-Encoding gzip, chunked is not read")) == (200, True)


def test_a_byte_order_mark_is_skipped(server: Server) -> None:
    status, detail = server.answer(PLAIN + b"Content-Length: %d\r\n\r\n" % (len(BODY) + 3) + b"\xef\xbb\xbf" + BODY)
    assert (status, detail["bytes"]) == (200, len(BODY))


def test_a_request_arrives_when_the_kernel_has_it() -> None:
    """Not when the event loop, which scores other requests meanwhile, comes to read it."""
    with serving(LIMITS) as server, server.connect() as client:
        client.sendall(PLAIN + LENGTH + BODY)
        assert answer_on(client)[0] == 200
        busy = threading.Event()

        def score() -> None:
            busy.set()
            time.sleep(0.25)

        loop = next(iter(server.connections._open)).loop  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(score)
        busy.wait()
        client.sendall(PLAIN + LENGTH + BODY)
        status, detail = answer_on(client)
        assert status == 200
        assert detail["waited"] > 0.1


def test_nothing_is_left_of_connections_that_are_gone(server: Server) -> None:
    emptied(server)
    assert server.connections._unfinished_bytes == 0
    assert not server.connections._surplus


class Full(Admission):
    """Admits nothing while ``full`` says so."""

    full = True

    @property
    def is_full(self) -> bool:
        return self.full


def comes_to_rest(admission: Admission) -> None:
    """A request is at work until a moment after its caller has the answer."""
    until = time.monotonic() + 30
    while admission.at_work:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def busy() -> Iterator[tuple[Server, Full]]:
    admission = Full(60.0)
    with serving(LIMITS, admission) as server:
        yield server, admission


@pytest.mark.parametrize("head", [LENGTH, b"Connection: keep-alive\r\n" + LENGTH, b"X: y\r\n" + LENGTH])
def test_a_connection_outlives_being_turned_away(busy: tuple[Server, Full], head: bytes) -> None:
    server, admission = busy
    statuses = []
    with server.connect() as client:
        for full in (True, True, False, True, False):
            admission.full = full
            client.sendall(PLAIN + head + BODY)
            statuses.append(status_on(client))
    assert statuses == [429, 429, 200, 429, 200]
    comes_to_rest(admission)


@pytest.mark.parametrize(
    "parts",
    [
        (PLAIN + CHUNKED + CHUNKS,),
        (PLAIN + LENGTH, BODY),
        (PLAIN + OFFER + LENGTH + BODY,),
        ((PLAIN + LENGTH + BODY) * 3,),
        (PLAIN + b"Expect: 100-continue\r\n" + LENGTH, BODY),
    ],
    ids=["chunked", "in two parts", "with an offer", "three at once", "that waits"],
)
def test_requests_of_every_form_are_turned_away(busy: tuple[Server, Full], parts: tuple[bytes, ...]) -> None:
    server, admission = busy
    with server.connect() as client:
        for part in parts:
            client.sendall(part)
            time.sleep(0.02)
        for _ in range(b"".join(parts).count(b"POST")):
            assert status_on(client) == 429
    comes_to_rest(admission)


def test_a_full_worker_reads_requests_as_one_that_is_not_full(busy: tuple[Server, Full]) -> None:
    """And closes the connection of the same ones."""
    server, admission = busy
    last = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + LENGTH + BODY
    for name, form in odd_framings(PLAIN + LENGTH + BODY).items():
        statuses = []
        for admission.full in (False, True):
            received = b""
            with server.connect() as client, contextlib.suppress(ConnectionError):
                client.sendall(form)
                time.sleep(0.02)  # or it would not have come whole and alone
                client.sendall(last)
                while more := client.recv(65536):
                    received += more
            statuses.append([status for status, _ in answers_in(received)])
        calm, full = statuses
        assert [status in (404, 429) or status for status in full] == [status == 404 or status for status in calm], name
        assert 429 in full or 404 not in calm, name


def test_any_number_of_requests_may_be_turned_away_at_once() -> None:
    """Behind one that is at work, on its connection."""
    admission = Admission(60.0)
    admission.limit = 1.0
    with serving(LIMITS, admission) as server, server.connect() as client:
        client.sendall(PLAIN + b"Content-Length: 4\r\n\r\nslow" + (PLAIN + LENGTH + BODY) * 1000)
        assert [status_on(client) for _ in range(1001)] == [200] + [429] * 1000
        eventually(lambda: admission.at_work == 0)
        client.sendall(PLAIN + LENGTH + BODY)
        assert answer_on(client)[0] == 200


def test_the_wait_of_a_request_begins_with_its_turn_on_its_connection(server: Server) -> None:
    with server.connect() as client:
        client.sendall(PLAIN + b"Content-Length: 4\r\n\r\nslow" + (PLAIN + LENGTH + BODY) * 5)
        first, *behind = [answer_on(client)[1]["waited"] for _ in range(6)]
    assert min(behind) < first


def test_whoever_does_not_read_refusals_is_read_no_further(busy: tuple[Server, Full]) -> None:
    server, admission = busy
    requests = [PLAIN + LENGTH + BODY] * 20_000 + [PLAIN + b"Connection: close\r\n" + LENGTH + BODY]
    with deaf(server.port) as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join(requests),))
        sender.start()
        eventually(lambda: the_connection(server).flow.read_paused)
        received = b"".join(iter(lambda: client.recv(65536), b""))
        sender.join()
    assert received.count(b"HTTP/1.1 429 ") == len(requests)
    emptied(server)
    comes_to_rest(admission)


def test_nothing_is_begun_behind_the_last_request_of_a_connection(busy: tuple[Server, Full]) -> None:
    server, _ = busy
    server.connections.draining = True
    seen: list[str] = []
    start = HttpToolsProtocol._start_asgi_task

    def noted(self: Any, cycle: Any, app: Any) -> None:
        seen.append(cycle.scope["method"])
        start(self, cycle, app)

    with pytest.MonkeyPatch.context() as patch, server.connect() as client:
        patch.setattr(HttpToolsProtocol, "_start_asgi_task", noted)
        client.sendall(PLAIN + LENGTH + BODY + b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_on(client) == 429
        assert client.recv(1) == b""
    assert not seen


def test_who_asks_that_the_connection_be_closed_is_turned_away_and_sees_it_closed(busy: tuple[Server, Full]) -> None:
    server, _ = busy
    with server.connect() as client:
        client.sendall(PLAIN + b"Connection: close\r\n" + LENGTH + BODY)
        assert status_on(client) == 429
        assert client.recv(1) == b""


def test_probes_are_answered_whatever_there_is_to_do(busy: tuple[Server, Full]) -> None:
    server, _ = busy
    with server.connect() as client:
        client.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_on(client) == 200


def test_a_refusal_says_when_to_come_again(busy: tuple[Server, Full]) -> None:
    server, _ = busy
    with server.connect() as client:
        client.sendall(PLAIN + LENGTH + BODY)
        answer = client.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nretry-after: 1" in head.lower()
    assert json.loads(body)["error"]["code"] == "overloaded"
    assert json.loads(body)["error"]["retry_after_ms"] >= 100


def status_on(client: socket.socket) -> int:
    """Of the next answer, which is read wholly."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = client.recv(1)
        assert received, "the connection is closed"
        data += received
        if data.startswith(b"HTTP/1.1 100") and data.endswith(b"\r\n\r\n"):
            data = b""
    length = int(data.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while length:
        length -= len(client.recv(length))
    return int(data.split()[1])
