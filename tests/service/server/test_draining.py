"""A service that is told to stop loses no request, and says that it is leaving."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections import Counter

import pytest

from tests.service.tiny import Publisher

BODY = json.dumps({"user_id": "u", "deadline_ms": 5000, "candidates": [{"id": "a"}, {"id": "e"}]})
CLIENTS = 8


@pytest.fixture
def environment(
    environment: dict[str, str], valkey: str, publisher: Publisher, request: pytest.FixtureRequest
) -> dict[str, str]:
    publisher.publish()
    return environment | {
        "LORANK_WORKERS": str(getattr(request, "param", 1)), "LORANK_REDIS_URL": valkey,
        "LORANK_KEY_PREFIX": publisher.keys.prefix, "LORANK_DRAIN_SECONDS": "1",
    }  # fmt: skip


class Callers:
    """Clients that send one request after the other over connections that they keep, until they are refused one."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.answers: Counter[str] = Counter()
        self.closing = 0
        self._port, self._tls, self._lock = port, tls, threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        client = connection_to(self._port, self._tls)
        answer = ""
        while answer != "refused":
            try:
                client.request("POST", "/v1/rank", BODY)
                response = client.getresponse()
                response.read()
                answer, closing = str(response.status), response.getheader("connection") == "close"
            except ConnectionRefusedError:
                answer, closing = "refused", False
            except (OSError, http.client.HTTPException) as error:
                answer, closing = f"lost: {error!r}", False
                client.close()
            with self._lock:
                self.answers[answer] += 1
                self.closing += closing
            time.sleep(0.005)  # the processor is not what is tested


def connection_to(port: int, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """A connection that is made with its first request."""
    if tls is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=tls)


def ready(port: int, tls: ssl.SSLContext | None = None) -> int:
    """Status of /readyz; 0 while nobody listens."""
    client = connection_to(port, tls)
    try:
        client.request("GET", "/readyz")
        return client.getresponse().status
    except ConnectionRefusedError:
        return 0
    finally:
        client.close()


@pytest.mark.parametrize("environment", [1, 3], indirect=True)
def test_no_request_is_lost(process: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    port = int(environment["LORANK_PORT"])
    until = time.monotonic() + 120.0
    while ready(port) != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    callers = Callers(port)
    callers.start()
    time.sleep(0.5)
    process.terminate()
    seen = set()
    while status := ready(port):
        seen.add(status)
        time.sleep(0.02)
    assert process.wait(60) == 0
    callers.join()
    assert 503 in seen
    assert set(callers.answers) == {"200", "refused"}
    assert callers.answers["refused"] == CLIENTS
    assert callers.closing >= CLIENTS
