"""Who may call what, of a real process over a real socket: every route, with every scope, without a key, and with keys
that were revoked meanwhile."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from starlette.routing import Route

from models.contract.keys import Keys
from offline.child import child_python
from service.access import Scope
from service.app import create_app
from service.keys import main as keys_command
from service.settings import Settings
from tests.conftest import ROOT, clean_environment
from tests.service.conftest import free_port
from tests.service.test_access import ASKED, ORIGIN, PLACES, REPORT, ROUTES, connected, new_key, written
from tests.service.tiny import Publisher

KEYS = Keys("lorank:access")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def connection(shared_valkey: str, tmp_path: Path, keys_file: Path) -> Iterator[http.client.HTTPConnection]:
    """To ``python -m service`` with the tiny release and the keys file."""
    with redis.Redis.from_url(shared_valkey) as store:
        Publisher(store, KEYS, tmp_path / "artifacts" / "access").publish()
        store.set(KEYS.request(ASKED.id), ASKED.model_dump_json())
        store.set(KEYS.report(REPORT.name), REPORT.pack())
    written(keys_file)
    port = free_port()
    settings = {
        "LORANK_REDIS_URL": shared_valkey, "LORANK_KEY_PREFIX": KEYS.prefix, "LORANK_DATA_DIR": str(tmp_path),
        "LORANK_PORT": str(port), "LORANK_RELEASE_POLL_SECONDS": "0.05", "LORANK_DEFAULT_DEADLINE_MS": "10000",
        "LORANK_MAX_DEADLINE_MS": "10000", "LORANK_KEYS": str(keys_file),
    }  # fmt: skip
    with subprocess.Popen(child_python("-m", "service"), cwd=ROOT, env=clean_environment() | settings) as process:
        try:
            with closing(connected(port, process)) as connection:
                until = time.monotonic() + 60.0
                while status_of(connection, ("GET", "/readyz"), None) != 200:
                    assert time.monotonic() < until
                    time.sleep(0.05)
                yield connection
        finally:
            process.terminate()


def status_of(connection: http.client.HTTPConnection, route: tuple[str, str], text: str | None) -> int:
    """Status of the answer to a valid call of a route, with a key's text or without."""
    method, target = route
    body = ROUTES[as_get(route)][1]
    for parameter, value in PLACES.items():
        target = target.replace(parameter, value)
    headers = {"Origin": ORIGIN} | ({} if text is None else {"Authorization": f"Bearer {text}"})
    connection.request(method, target, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def as_get(route: tuple[str, str]) -> tuple[str, str]:
    """The route, or that of GET for HEAD."""
    return ("GET" if route[0] == "HEAD" else route[0], route[1])


def test_every_route_with_every_scope_over_a_socket(
    connection: http.client.HTTPConnection, keys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(Settings(keys=keys_file))
    routes = sorted(
        (method, route.path) for route in app.routes if isinstance(route, Route) for method in route.methods or ()
    )
    assert {as_get(route) for route in routes} == set(ROUTES)
    lasting = {scope: new_key(scope) for scope in Scope}
    revoked = {scope: new_key(scope) for scope in Scope}
    written(keys_file, *(key for key, _ in (*lasting.values(), *revoked.values())))
    until = time.monotonic() + 60.0
    while status_of(connection, ("GET", "/v1/status"), revoked[Scope.ADMIN][1]) != 200:  # not read yet
        assert time.monotonic() < until
    for key, _ in revoked.values():
        assert keys_command(["--file", str(keys_file), "revoke", key.id]) == 0
    while status_of(connection, ("GET", "/v1/status"), revoked[Scope.ADMIN][1]) != 401:
        assert time.monotonic() < until
    for route in routes:
        scopes = ROUTES[as_get(route)][0]
        for scope in Scope:
            status = status_of(connection, route, lasting[scope][1])
            assert status == 403 if scopes and scope not in scopes else status in (200, 202, 204), (route, scope)
            assert (status_of(connection, route, revoked[scope][1]) == 401) is bool(scopes), (route, scope)
        is_open = not scopes or route[1] == "/v1/status"  # which says the release to everybody
        assert (status_of(connection, route, None) == 401) is not is_open, route
