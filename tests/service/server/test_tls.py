"""TLS of the service's own port, with real certificates: who is let in, what is refused, and leaving without a loss."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from service.app import create_app
from service.server.tls import server_context
from service.server.workers import run_alone, run_workers
from service.settings import Settings, SettingsError
from tests.certificates import Authority
from tests.service.conftest import ROOT
from tests.service.server.test_draining import BODY, CLIENTS, Callers, connection_to, ready
from tests.service.tiny import Publisher


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture
def environment(environment: dict[str, str], valkey: str, publisher: Publisher, authority: Authority) -> dict[str, str]:
    publisher.publish()
    certificate, key = authority.issue("ranker")
    return environment | {
        "LORANK_REDIS_URL": valkey, "LORANK_KEY_PREFIX": publisher.keys.prefix, "LORANK_DRAIN_SECONDS": "1",
        "LORANK_TLS_CERTIFICATE": str(certificate), "LORANK_TLS_KEY": str(key),
    }  # fmt: skip


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest, environment: dict[str, str], authority: Authority) -> int:
    """One worker lets everybody in; two ask their callers for certificates."""
    environment["LORANK_WORKERS"] = str(request.param)
    if request.param > 1:
        environment["LORANK_TLS_CLIENT_CA"] = str(authority.path)
    return int(request.param)


def ask(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/healthz")
    connection.getresponse()


def answers_probe(environment: dict[str, str]) -> bool:
    command = [sys.executable, "-m", "service", "probe"]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=60).returncode == 0


def test_callers_are_let_in_refused_and_not_lost(
    workers: int, environment: dict[str, str], authority: Authority, process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    port = int(environment["LORANK_PORT"])
    asks = workers > 1
    stranger = Authority(tmp_path, "stranger")
    own = authority.client(authority.issue("shop")) if asks else authority.client()
    until = time.monotonic() + 120.0
    while ready(port, own) != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert answers_probe(environment)

    connection = connection_to(port, own)
    for _ in range(3):
        connection.request("POST", "/v1/rank", BODY)
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["items"])) == (200, 2)
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.version() == "TLSv1.3"
    connection.request("POST", "/v1/rank", b"x" * 5_000_000)  # refused before it is read
    assert connection.getresponse().status == 413
    connection.close()

    old = authority.client(authority.issue("shop") if asks else None)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = connection_to(port, old)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    assert isinstance(connection.sock, ssl.SSLSocket)
    cipher = connection.sock.cipher()
    assert cipher is not None
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]
    connection.close()

    # What has a certificate of nobody's: the caller of another authority, or of none, and plain HTTP.
    refusing = [None, stranger.client()]
    if asks:
        foreign = authority.client(stranger.issue("shop"))
        refusing += [authority.client(), foreign]
    for context in refusing:
        connection = connection_to(port, context)
        with contextlib.closing(connection), pytest.raises((OSError, http.client.HTTPException)):
            ask(connection)

    callers = Callers(port, own)
    callers.start()
    time.sleep(0.5)
    process.terminate()
    while ready(port, own):
        time.sleep(0.02)
    assert process.wait(60) == 0
    callers.join()
    assert set(callers.answers) == {"200", "refused"}
    assert callers.answers["refused"] == CLIENTS
    assert not answers_probe(environment)


def test_a_handshake_that_is_under_way_when_the_server_leaves_is_completed(
    workers: int, environment: dict[str, str], authority: Authority, process: subprocess.Popen[bytes]
) -> None:
    port = int(environment["LORANK_PORT"])
    own = authority.client(authority.issue("shop")) if workers > 1 else authority.client()
    until = time.monotonic() + 120.0
    while ready(port, own) != 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    half_way = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(4)]
    time.sleep(0.3)  # all are accepted
    process.terminate()
    while ready(port, own):
        time.sleep(0.02)
    for caller in half_way:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.sock = own.wrap_socket(caller, server_hostname="127.0.0.1")
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
    assert process.wait(60) == 0


def test_files_that_cannot_be_used_are_one_line(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("ranker")
    other = authority.issue("other")[1]
    locked = tmp_path / "locked.key"
    secret = load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    absent = tmp_path / "absent.pem"
    for given, words in (
        ((absent, key, None), "LORANK_TLS_CERTIFICATE: .*absent.pem cannot be read"),
        ((certificate, absent, None), "LORANK_TLS_KEY: .*absent.pem cannot be read"),
        ((certificate, other, None), "LORANK_TLS_KEY: .*of its key.*MISMATCH"),
        ((rubbish, key, None), "LORANK_TLS_CERTIFICATE"),
        ((certificate, locked, None), "without a passphrase"),
        ((certificate, key, absent), "LORANK_TLS_CLIENT_CA: .*absent.pem cannot be read"),
        ((certificate, key, rubbish), "LORANK_TLS_CLIENT_CA: .*no PEM file"),
    ):
        settings = Settings(tls_certificate=given[0], tls_key=given[1], tls_client_ca=given[2])
        with pytest.raises(SettingsError, match=words):
            server_context(settings)
    for alone in ("LORANK_TLS_CERTIFICATE", "LORANK_TLS_KEY", "LORANK_TLS_CLIENT_CA"):
        with pytest.raises(SettingsError, match="go together"):
            Settings.from_environment({alone: str(certificate)})


def test_a_wrong_key_stops_the_start(authority: Authority) -> None:
    certificate, _ = authority.issue("ranker")
    settings = Settings(tls_certificate=certificate, tls_key=authority.issue("other")[1])
    for run in (run_alone, run_workers):
        with pytest.raises(SettingsError, match="LORANK_TLS_KEY"):
            run(create_app(settings), settings)
