"""Clients that say nothing, half of it, too much, or something else, and that leave; surroundings, and odd bytes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.on_processes import PATIENT_MS, started
from tests.chaos.rows import UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import Service, Stand, TroubleError, eventually
from tests.chaos.traffic import ANSWER_SECONDS, Traffic, User
from tests.service.tiny import ITEMS, TinyItem

PART = "Clients"

HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\n"
MEBIBYTE = 2**20
POURED_BYTES = 64 * MEBIBYTE

READS, READS_SHORT = 100_000, 5_000
READERS = 24
CALM_SHARE = 10
"""Before some reads are left, one in so many is made that is not."""

ROUNDS = 20
"""Of requests on one connection of a reader."""

SCHEMATHESIS = """
# The range of an event's value, and whether it may be absent, are the live release's and stand in no document.
[[operations]]
include-path = "/v1/feedback"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "422"]
"""

SAID = '''
"""Requests that the OpenAPI document cannot tell from others, though the service does, are left out: layers of
experiments and fields of the catalogue (arms, where), whole numbers that are written with a point, ids of more bytes
than they have characters."""

import schemathesis

FREE = {"features", "context", "deadline_ms", "value"}


def is_said(value):
    if isinstance(value, dict):
        named = value.get("arms") or value.get("where")
        return not named and all(is_said(each) for name, each in value.items() if name not in FREE)
    if isinstance(value, list):
        return all(map(is_said, value))
    if isinstance(value, str):
        return len(value.encode(errors="replace")) <= 256
    return not (isinstance(value, float) and value.is_integer())


@schemathesis.hook
def filter_body(context, body):
    return is_said(body)
'''


def request_of(user: User, chosen: list[TinyItem], request_id: str = "", headers: bytes = b"") -> bytes:
    """A ranking request as bytes."""
    document: dict[str, Any] = {
        "user_id": user.id, "candidates": [{"id": item.id} for item in chosen], "deadline_ms": PATIENT_MS,
    }  # fmt: skip
    body = json.dumps(document | ({"request_id": request_id} if request_id else {})).encode()
    return HEAD + headers + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def connected(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=ANSWER_SECONDS)


def is_cut(caller: socket.socket) -> bool:
    """Whether it was answered, or its connection is closed."""
    try:
        caller.recv(MEBIBYTE, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@row(PART, "450 connections that say nothing, 450 with half a head, 60 with half a body, 4 whose head never ends",
     Goal(added=UNHINDERED), short=True)  # fmt: skip
def half_sent(stand: Stand) -> Outcome:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limits: dict[str, Any] = {"header_seconds": 2, "body_seconds": 3} if stand.short else {}
    service = started(stand, **limits)
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    parts = [b""] * 450 + [HEAD] * 450 + [HEAD + b"Content-Length: 99999\r\n\r\n" + b"a" * 50_000] * 60 + [HEAD] * 4
    with traffic.trouble(), ExitStack() as stack:
        callers = [stack.enter_context(connected(service)) for _ in parts]
        for caller, part in zip(callers, parts, strict=True):
            caller.sendall(part)
        began = time.monotonic()

        def all_cut() -> bool:
            for number, caller in enumerate(callers[-4:]):
                with contextlib.suppress(OSError):
                    caller.sendall(b"X-%d: y\r\n" % number)
            return all(map(is_cut, callers[450:]))

        eventually(all_cut, "what is half sent is never cut", 120.0)
        seconds = time.monotonic() - began
    traffic.settle()
    return traffic.outcome(remark=f"all that had begun were cut after {seconds:.0f} s")


@row(PART, "four callers send heads of 64 MiB, in one line and in many: 431 to each", Goal(added=UNHINDERED))
def large_heads(stand: Stand) -> Outcome:
    service = started(stand)
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    pieces = [b"X: " + b"y" * MEBIBYTE, b"X: y\r\n" * (MEBIBYTE // 6)] * 10

    def pour(piece: bytes) -> str:
        """What came of it: a status, or why there is none."""
        with connected(service) as caller:
            with contextlib.suppress(ConnectionError):  # of a service that has answered and hangs up
                caller.sendall(HEAD)
                for _ in range(POURED_BYTES // len(piece)):
                    caller.sendall(piece)
            try:
                return caller.recv(MEBIBYTE)[9:12].decode() or "no answer"
            except OSError as error:
                return type(error).__name__

    with traffic.trouble(), ThreadPoolExecutor(4) as pool:
        came = Counter(pool.map(pour, pieces))
    traffic.settle()
    missed = [f"{count} of {len(pieces)} heads: {what}" for what, count in came.items() if what != "431"]
    return traffic.outcome(missed=missed, remark=f"{came['431']} of {len(pieces)} heads: 431")


def deaf(port: int) -> socket.socket:
    """A caller whose kernel takes little of an answer that is not read."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.settimeout(60.0)
    caller.connect(("127.0.0.1", port))
    return caller


@row(PART, "6 callers rank 2,000 candidates again and again, each on one connection, and read no answer; "
           "LORANK_QUEUE_MS=100", Goal(refused=None), short=True)  # fmt: skip
def unread_answers(stand: Stand) -> Outcome:
    limits: dict[str, Any] = {"body_seconds": 3} if stand.short else {}
    service = started(stand, queue_ms=100, **limits)
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    large = request_of(stand.users[0], [TinyItem(f"{number:04}" + "x" * 240) for number in range(2000)])

    def is_cut_in_the_end(caller: socket.socket) -> bool:
        try:
            while True:
                caller.sendall(large)
        except TimeoutError:
            return False
        except OSError:
            return True

    began = time.monotonic()
    with traffic.trouble(), ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        callers = [stack.enter_context(deaf(service.port)) for _ in range(6)]
        if not all(pool.map(is_cut_in_the_end, callers)):
            raise TroubleError("whoever reads no answer is never cut")
        seconds = time.monotonic() - began
    meanwhile = [each.verdict for each in traffic.answers if each.at >= began]
    refused = meanwhile.count("refused")
    traffic.settle()
    return traffic.outcome(
        missed=["all others were refused until they were cut"] * (refused == len(meanwhile)),
        remark=f"all were cut after {seconds:.0f} s; of the {len(meanwhile):,} requests of others until then "
        f"{refused:,} were refused",
    )


@dataclass
class Readers:
    """Callers that rank on connections that they keep, one or several requests at once, and leave some of them where
    ``leaves`` says so: before all is sent, before it is answered, or in the middle of an answer. Each answer that is
    complete is judged."""

    service: Service
    traffic: Traffic
    left: int = 0
    leaves: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def run(self, reads: int) -> None:
        self._numbers = itertools.count()
        await asyncio.gather(*(self._read(random.Random(seed), reads) for seed in range(READERS)))

    async def _read(self, dice: random.Random, reads: int) -> None:
        while next(self._numbers) < reads:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.service.port)
            for _ in range(ROUNDS):
                if not await self._round(dice, reader, writer):
                    break
            if dice.random() < 0.5:
                writer.transport.abort()
            writer.close()

    async def _round(self, dice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is still of use."""
        asked = [
            (dice.choice(self.traffic.known), dice.sample(ITEMS, dice.randint(2, len(ITEMS))))
            for _ in range(dice.choice((1, 1, 1, 2, 3)))
        ]
        for _ in asked[1:]:
            next(self._numbers)
        raw = b"".join(request_of(user, chosen) for user, chosen in asked)
        leaving = dice.choice(("", "", "", "", "", "sending", "waiting", "reading")) if self.leaves else ""
        began = time.monotonic()
        writer.write(raw[: dice.randrange(len(raw))] if leaving == "sending" else raw)
        if leaving in ("sending", "waiting"):
            self.left += len(asked)
            await asyncio.sleep(dice.random() * 0.01)
            return False
        try:
            for number, (user, chosen) in enumerate(asked, start=1):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_SECONDS)
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                if leaving and number == len(asked):
                    await reader.readexactly(dice.randrange(length))
                    self.left += 1
                    return False
                content = await asyncio.wait_for(reader.readexactly(length), ANSWER_SECONDS)
                self.traffic.judge(began, user, chosen, int(head.split()[1]), content)
        except (OSError, EOFError, TimeoutError) as error:
            self.traffic.note(began, "failed", remark=type(error).__name__)
            return False
        next(self._numbers)
        return True


@row(PART, "100,000 reads of 24 callers (* 5,000), of which some are left: before they are sent, before they are "
           "answered, in the middle of the answer; kept connections, several at once; in the calm nobody "
           "leaves",
     Goal(added=UNHINDERED), short=True)  # fmt: skip
def cancellations(stand: Stand) -> Outcome:
    service = started(stand)
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    readers, reads = Readers(service, traffic), READS_SHORT if stand.short else READS
    asyncio.run(readers.run(reads // CALM_SHARE))
    with traffic.trouble():
        readers.leaves = True
        asyncio.run(readers.run(reads))
    traffic.settle()
    return traffic.outcome(remark=f"{readers.left:,} of {reads:,} reads were left")


def odd_framings(inner: bytes) -> dict[str, bytes]:
    """Requests of which two programs may say differently where they end, with another one where the first may have
    ended; by what is odd about them."""
    size, chunk = b"%d" % len(inner), b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
    chunked, ended = b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + inner
    return {
        "the length twice": HEAD + b"Content-Length: %b\r\nContent-Length: %b\r\n\r\n" % (size, size) + inner,
        "two lengths": HEAD + b"Content-Length: %b\r\nContent-Length: 0\r\n\r\n" % size + inner,
        "two lengths, less first": HEAD + b"Content-Length: 0\r\nContent-Length: %b\r\n\r\n" % size + inner,
        "lengths in a list": HEAD + b"Content-Length: 0, %b\r\n\r\n" % size + inner,
        "a length with a sign": HEAD + b"Content-Length: +%b\r\n\r\n" % size + inner,
        "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + inner,
        "a length in hexadecimal": HEAD + b"Content-Length: 0x%x\r\n\r\n" % len(inner) + inner,
        "a length beyond 64 bits": HEAD + b"Content-Length: 18446744073709551617\r\n\r\n" + inner,
        "an empty length": HEAD + b"Content-Length:\r\n\r\n" + inner,
        "length and chunks": HEAD + b"Content-Length: %d\r\n" % len(ended) + chunked + b"\r\n" + ended,
        "chunks and length": HEAD + chunked + b"Content-Length: %d\r\n\r\n" % len(ended) + ended,
        "chunks twice": HEAD + chunked + chunked + b"\r\n" + chunk,
        "chunks, then identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + ended,
        "chunks of another name": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + ended,
        "chunks, folded": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + ended,
        "chunks, before a space": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + ended,
        "length and chunks, before a space": HEAD
        + b"Content-Length: %d\r\n" % len(ended)
        + b"Transfer-Encoding : chunked\r\n\r\n"
        + ended,
        "a zero byte in the first line": b"POST  \0 HTTP/1.1\r\nContent-Length: %b\r\n\r\n" % size + inner,
        "HTTP/9.9": HEAD.replace(b"1.1", b"9.9") + b"Content-Length: %b\r\n\r\n" % size + inner,
        "chunks, behind a tab": HEAD + b"Transfer-Encoding:\tchunked\r\n\r\n" + chunk,
        "a length, folded": HEAD + b"X: y\r\n Content-Length: %b\r\n\r\n" % size + inner,
        "lines that end in LF": HEAD.replace(b"\r", b"") + b"Content-Length: %b\n\n" % size + inner,
        "a line that ends in LF": HEAD + b"X: y\nContent-Length: %b\r\n\r\n" % size + inner,
        "a line that ends in CR": HEAD + b"X: y\rContent-Length: %b\r\n\r\n" % size + inner,
        "a zero byte": HEAD + b"X: \0\r\nContent-Length: %b\r\n\r\n" % size + inner,
        "a size with a sign": HEAD + chunked + b"\r\n+" + chunk,
        "a size in hexadecimal with 0x": HEAD + chunked + b"\r\n0x" + chunk,
        "a size beyond 64 bits": HEAD + chunked + b"\r\n1000000000000000" + chunk,
        "an extension with LF": HEAD + chunked + b"\r\n0;x=\n\r\n\r\n" + inner,
        "a chunk longer than its size": HEAD + chunked + b"\r\n1\r\nab\r\n" + ended,
        "a body that nobody reads": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n" % size + inner,
        "HTTP/1.0 with chunks": HEAD.replace(b"1.1", b"1.0") + chunked + b"Connection: keep-alive\r\n\r\n" + chunk,
    }


def answers_in(data: bytes) -> list[tuple[int, bytes]]:
    """Statuses and bodies; -1 for what is no answer."""
    answers: list[tuple[int, bytes]] = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        try:
            status, length = int(head.split()[1]), int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        except (ValueError, IndexError):
            return [*answers, (-1, head)]
        answers.append((status, data[:length]))
        data = data[length:]
    return answers


@row(PART, "requests of which two programs may say differently where they end, and another one behind them",
     Goal(added=UNHINDERED))  # fmt: skip
def odd_ends(stand: Stand) -> Outcome:
    service = started(stand)
    traffic = stand.traffic(service, deadline_ms=PATIENT_MS)
    dice, (inside, behind) = random.Random(0), stand.users[:2]
    forms = odd_framings(request_of(inside, list(ITEMS), "inside"))
    last = request_of(behind, list(ITEMS), "behind", b"Connection: close\r\n")
    read = set()
    with traffic.trouble():
        for name, _ in itertools.product(forms, range(8)):
            began, cut, data = time.monotonic(), dice.randrange(len(forms[name])), b""
            with connected(service) as caller, contextlib.suppress(ConnectionError):
                caller.sendall(request_of(inside, list(ITEMS)))
                caller.sendall(forms[name][:cut])
                time.sleep(0.01 * dice.random())
                caller.sendall(forms[name][cut:] + last)
                while received := caller.recv(MEBIBYTE):
                    data += received
            (status, content), *others = answers_in(data) or [(0, b"")]
            traffic.judge(began, inside, ITEMS, status, content)
            if len(others) == 2 and json.loads(others[1][1]).get("request_id") == "behind":
                read.add(name)
                traffic.judge(began, behind, ITEMS, *others[1])
            if any(each <= 0 or b'"inside"' in body for each, body in others) or len(others) > 2:
                traffic.note(began, "wrong", remark=name)
    traffic.settle()
    return traffic.outcome(remark=f"{len(forms)} forms, {len(read)} of them read as one request and the rest refused")


@row(PART, "default settings of clients in Python, Java, Node, Go and curl, with and without an offer of HTTP/2")
def clients_of_languages(stand: Stand) -> Outcome:
    return stand.tests("tests/e2e/test_clients.py")


@row(PART, "Kubernetes' variables, read-only root, no or little /dev/shm, proxies, few descriptors, a quota "
           "of CPU; HEALTHCHECK with another port and a proxy")  # fmt: skip
def surroundings(stand: Stand) -> Outcome:
    return stand.tests("tests/service/test_surroundings.py", "tests/models/test_cores.py", "tests/test_deployment.py")


@row(PART, "the clock is set three days forth and back")
def clock_moved(stand: Stand) -> Outcome:
    return stand.tests("tests/service/test_clock.py")


@row(PART, "requests made of the OpenAPI document, right and wrong ones (schemathesis, all checks)")
def document_kept(stand: Stand) -> Outcome:
    program = shutil.which("st")
    if program is None:
        raise TroubleError("schemathesis is not there: `make chaos` installs bench/requirements.txt, and it with them")
    service, folder = started(stand, default_deadline_ms=PATIENT_MS), stand.folder
    (folder / "said.py").write_text(SAID)
    (folder / "schemathesis.toml").write_text(SCHEMATHESIS)
    options = {
        "checks": "all", "seed": 1, "max-examples": 100, "request-timeout": 60,
        "generation-database": "none", "report": "json", "report-json-path": folder / "report.json",
    }  # fmt: skip
    command = [program, "run", f"http://127.0.0.1:{service.port}/openapi.json", "--no-color"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "said", "PYTHONPATH": str(folder)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):
        raise TroubleError(ended.stdout[-2000:] + ended.stderr[-2000:])
    if ended.returncode:
        print(ended.stdout)
    report = json.loads((folder / "report.json").read_bytes())
    if report["operations"]["tested"] != report["operations"]["total"]:
        raise TroubleError(f"not all routes were called: {report['operations']}")
    return Outcome(
        tests=report["test_cases"]["generated"],
        tests_failed=report["test_cases"]["unique_failures"],
        remark="left out is what the document cannot say: layers, fields and values that the release and the "
        "experiments know, bytes of ids, whole numbers with a point",
    )


@row(PART, "bytes that are not quite what a parser expects: heads, bodies, settings, files, Redis' and vLLM's replies")
def odd_bytes(stand: Stand) -> Outcome:
    connections, own_files = "tests/service/server/test_connection.py", "tests/offline/data/test_own_files.py"
    return stand.tests(
        "tests/contract/test_damage.py", "tests/service/test_damage.py", "tests/service/api/test_bodies.py",
        "tests/offline/impressions/test_reading.py", f"{own_files}::test_any_file_is_read_or_refused",
        f"{own_files}::test_a_parquet_file_that_is_cut_or_goes_on_is_read_or_refused",
        f"{connections}::test_whatever_a_caller_sends_is_answered_or_refused",
        "tests/offline/test_config.py::test_whatever_a_file_holds_is_a_configuration_or_refused",
    )  # fmt: skip
