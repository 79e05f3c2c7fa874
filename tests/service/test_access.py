"""API keys: who may call which route, and what a service without keys may listen on."""

from __future__ import annotations

import http.client
import json
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from models.contract.leaving import is_loopback
from service.access import Access, ApiKey, KeysFile, Scope
from service.app import create_app
from service.errors import Forbidden, RateLimited, Unauthenticated
from service.keys import main as keys
from service.settings import Settings, SettingsError
from tests.conftest import ROOT
from tests.service.conftest import eventually, running
from tests.service.tiny import Publisher

BODY = {"user_id": "u1", "candidates": [{"id": "a"}, {"id": "b"}]}
ROUTES: dict[tuple[str, str], tuple[Scope | None, object]] = {
    ("POST", "/v1/rank"): (Scope.RANK, BODY),
    ("POST", "/v1/recommend"): (Scope.RANK, {"user_id": "u1", "top_k": 3}),
    ("POST", "/v1/feedback"): (Scope.FEEDBACK, {"user_id": "u1", "item_id": "a", "value": 5}),
    ("GET", "/metrics"): (Scope.METRICS, None),
    ("HEAD", "/metrics"): (Scope.METRICS, None),
    ("GET", "/v1/status"): (Scope.ADMIN, None),
    ("HEAD", "/v1/status"): (Scope.ADMIN, None),
    ("GET", "/healthz"): (None, None),
    ("GET", "/readyz"): (None, None),
    ("GET", "/openapi.json"): (None, None),
}
"""Every route with the scope that it needs, and a body that it takes."""


def written(path: Path, *given: ApiKey) -> Path:
    path.write_text(KeysFile(keys=given).model_dump_json())
    return path


def headers(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), *((b"authorization", line.encode()) for line in lines)]


def test_a_key_opens_what_its_scopes_name(tmp_path: Path) -> None:
    key, text = ApiKey.new("shop", [Scope.RANK, Scope.FEEDBACK])
    access = Access(written(tmp_path / "keys.json", key), 1.0)
    access.check(headers(f"Bearer {text}"), Scope.RANK)
    access.check(headers(f"bearer  {text} "), Scope.FEEDBACK)
    with pytest.raises(Forbidden, match=rf"shop \({key.id}\) does not have the scope admin"):
        access.check(headers(f"Bearer {text}"), Scope.ADMIN)


def test_what_is_no_key_in_force_opens_nothing(tmp_path: Path) -> None:
    key, text = ApiKey.new("shop", [Scope.RANK])
    old, expired = ApiKey.new("old", [Scope.RANK], expires=datetime.now(UTC) - timedelta(seconds=1))
    access = Access(written(tmp_path / "keys.json", key, old), 1.0)
    _, stranger = ApiKey.new("stranger", [Scope.RANK])
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    lines = ("", "Bearer", text, f"Basic {text}", f"Bearer {expired}", f"Bearer {stranger}", f"Bearer {wrong}")
    others = (f"Bearer {text}x", f"Bearer {text[:-1]}", f"Bearer {text} {text}", f"Bearer {key.sha256}", "Bearer \xff")
    for line in (*lines, *others):
        with pytest.raises(Unauthenticated):
            access.check(headers(line), Scope.RANK)
    with pytest.raises(Unauthenticated, match="required"):
        access.check(headers(), Scope.RANK)
    with pytest.raises(Unauthenticated):
        access.check(headers(f"Bearer {text}", "Bearer x"), Scope.RANK)


def test_a_key_with_a_rate_makes_its_burst_and_then_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = ApiKey.new("shop", [Scope.RANK], per_second=10.0, burst=4)
    other, free = ApiKey.new("other", [Scope.RANK])
    access = Access(written(tmp_path / "keys.json", key, other), 1.0, workers=2)
    clock = [100.0]
    monkeypatch.setattr("service.access.time.monotonic", lambda: clock[0])

    def allowed() -> int:
        """How many requests are, until one is not."""
        for count in range(100):
            try:
                access.check(headers(f"Bearer {text}"), Scope.RANK)
            except RateLimited:
                return count
        return 100

    assert allowed() == 2  # of two workers each has its half
    with pytest.raises(RateLimited) as refused:
        access.check(headers(f"Bearer {text}"), Scope.RANK)
    assert (refused.value.per_second, refused.value.retry_after_ms) == (10.0, 200)
    access.check(headers(f"Bearer {free}"), Scope.RANK)
    with pytest.raises(Forbidden):
        access.check(headers(f"Bearer {text}"), Scope.ADMIN)
    clock[0] += 0.2
    assert allowed() == 1
    clock[0] += 3600.0
    assert allowed() == 2


async def test_too_many_requests_of_a_key_are_told_when_to_come_again(
    settings: Settings, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish()
    key, text = ApiKey.new("shop", [Scope.RANK], per_second=0.001, burst=1)
    limited = settings.model_copy(update={"keys": written(tmp_path / "keys.json", key)})
    async with running(limited) as service:
        lines = {"Authorization": f"Bearer {text}"}
        assert (await service.http.post("/v1/rank", json=BODY, headers=lines)).status_code == 200
        refused = await service.http.post("/v1/rank", json=BODY, headers=lines)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert 990 <= int(refused.headers["Retry-After"]) <= 1000
        assert (refused.headers["RateLimit-Limit"], refused.headers["RateLimit-Remaining"]) == ("0.001;w=1", "0")


def test_the_file_is_followed_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    key, text = ApiKey.new("shop", [Scope.RANK])
    after, new = ApiKey.new("shop", [Scope.RANK])
    access = Access(written(tmp_path / "keys.json", key), 1.0)
    written(tmp_path / "keys.json", key, after)
    access.refresh()
    for each in (text, new):
        access.check(headers(f"Bearer {each}"), Scope.RANK)
    (tmp_path / "keys.json").write_text('{"keys": [{"secret": "hidden-here"}]}')
    access.refresh()
    access.check(headers(f"Bearer {text}"), Scope.RANK)
    assert "keys.0" in access.error
    assert "hidden-here" not in access.error
    written(tmp_path / "keys.json", after)
    access.refresh()
    assert not access.error
    with pytest.raises(Unauthenticated):
        access.check(headers(f"Bearer {text}"), Scope.RANK)


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    _, text = ApiKey.new("shop", [Scope.RANK])
    access = Access(written(tmp_path / "keys.json"), 1.0)
    with pytest.raises(Unauthenticated):
        access.check(headers(f"Bearer {text}"), Scope.RANK)


@pytest.mark.parametrize("content", [None, "", "{", '{"keys": 7}', '{"keys": [], "colour": 1}'])
def test_a_bad_file_stops_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"keys\.json"):
        create_app(Settings(keys=path))


def test_two_keys_of_one_id_are_refused() -> None:
    key, _ = ApiKey.new("shop", [Scope.RANK])
    with pytest.raises(SettingsError, match="one id"):
        KeysFile.parse(json.dumps({"keys": [key.model_dump(mode="json")] * 2}).encode())


async def test_every_route_with_every_scope(settings: Settings, publisher: Publisher, tmp_path: Path) -> None:
    """With none, with each, with all but the one it needs, with a revoked key."""
    keys_of = {scope: ApiKey.new(scope, [scope]) for scope in Scope}
    revoked, former = ApiKey.new("revoked", list(Scope))
    path = written(tmp_path / "keys.json", revoked, *(key for key, _ in keys_of.values()))
    publisher.publish()
    watched = settings.model_copy(update={"keys": path, "release_poll_seconds": 0.05})
    async with running(watched) as service:

        async def status(route: tuple[str, str], text: str | None) -> httpx2.Response:
            content = None if ROUTES[route][1] is None else json.dumps(ROUTES[route][1])
            given = {} if text is None else {"Authorization": f"Bearer {text}"}
            return await service.http.request(route[0], route[1], content=content, headers=given)

        documented = (await service.http.get("/openapi.json")).json()
        assert {path for _, path in ROUTES} - {"/openapi.json"} == set(documented["paths"])
        for route, (needed, _) in ROUTES.items():
            for scope, (_, text) in keys_of.items():
                expected = 200 if needed in (None, scope) else 403
                assert (await status(route, text)).status_code == expected, (route, scope)
            assert (await status(route, former)).status_code == 200
            nothing = await status(route, None)
            if needed is None:
                assert nothing.status_code == 200
            elif route[1] == "/v1/status":
                assert nothing.status_code == 200
                if route[0] == "GET":
                    assert nothing.json() == {"release": {"id": "r1"}}
            else:
                assert (nothing.status_code, nothing.headers["WWW-Authenticate"]) == (401, "Bearer"), route
        written(path, *(key for key, _ in keys_of.values()))
        await eventually(lambda: "revoked" not in str(service.app.state.service.status()["access"]["keys"]))
        for route, (needed, _) in ROUTES.items():
            assert (await status(route, former)).status_code == (200 if needed is None else 401), route
        whole = (await status(("GET", "/v1/status"), keys_of[Scope.ADMIN][1])).json()
        assert whole["access"]["keys"] == sorted(f"{key.name} ({key.id})" for key, _ in keys_of.values())
        assert "lorank_" + revoked.id not in str(whole)
        schemes: list[dict[str, list[str]]] = [{name: []} for name in documented["components"]["securitySchemes"]]
        for (method, target), (needed, _) in ROUTES.items():
            if method != "HEAD" and target != "/openapi.json":
                page = documented["paths"][target][method.lower()]
                assert ({"401", "403"} <= set(page["responses"])) == (needed is not None), target
                assert page.get("security") == (None if needed is None else schemes), target


async def test_a_refused_body_is_not_read(settings: Settings, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish()
    async with running(settings.model_copy(update={"keys": written(tmp_path / "keys.json")})) as service:
        answer = await service.http.post("/v1/rank", content=b"no json at all")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


async def test_without_keys_everything_is_as_it_was(settings: Settings, publisher: Publisher) -> None:
    publisher.publish()
    async with running(settings) as service:
        assert (await service.http.post("/v1/rank", json=BODY)).status_code == 200
        assert (await service.http.get("/v1/status")).json()["access"]["keys"] is None
        document = (await service.http.get("/openapi.json")).json()
        assert "securitySchemes" not in document["components"]
        assert "401" not in document["paths"]["/v1/rank"]["post"]["responses"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "lorank.internal", ""])
def test_other_machines_are_let_in_with_keys_or_where_the_operator_says_so(host: str, tmp_path: Path) -> None:
    environment = {"LORANK_HOST": host or "10.0.0.1"}
    with pytest.raises(SettingsError, match=r"LORANK_KEYS .*keys add.*LORANK_PRIVATE_NETWORK=1"):
        Settings.from_environment(environment)
    assert Settings.from_environment(environment | {"LORANK_PRIVATE_NETWORK": "1"}).private_network
    Settings.from_environment(environment | {"LORANK_KEYS": str(tmp_path / "keys.json")})


def test_loopback_needs_no_keys() -> None:
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost", "LOCALHOST"):
        assert is_loopback(host)
        Settings.from_environment({"LORANK_HOST": host})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "of" / "keys.json"
    monkeypatch.setenv("LORANK_KEYS", str(path))
    return path


def test_the_command_makes_lists_and_revokes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, Sequence[str]]:
        status = keys(arguments)
        return status, capsys.readouterr().out.splitlines()

    status, (text,) = run("add", "shop", "--scope", "rank", "--scope", "feedback")
    assert status == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text not in file.read_text()
    Access(file, 1.0).check(headers(f"Bearer {text}"), Scope.FEEDBACK)
    assert run("add", "shop", "--scope", "rank", "--once") == (0, [])
    assert run("add", "shop", "--scope", "admin", "--days", "30")[0] == 0
    status, lines = run("list")
    assert [line.split()[1:3] for line in lines] == [["name", "scopes"], ["shop", "rank,feedback"], ["shop", "admin"]]
    assert text not in "".join(lines)
    identity = lines[1].split()[0]
    assert run("revoke", identity) == (0, ["1 revoked"])
    with pytest.raises(Unauthenticated):
        Access(file, 1.0).check(headers(f"Bearer {text}"), Scope.RANK)
    assert run("revoke", "shop") == (0, ["1 revoked"])
    assert run("revoke", "shop") == (1, ["no key has the id or name shop"])
    assert not [path for path in file.parent.iterdir() if path.name not in ("keys.json", "keys.json.lock")]


def test_a_wrong_name_or_file_is_one_line_and_loses_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(["add", "a b", "--scope", "rank"]) == 2
    assert "name: " in capsys.readouterr().err
    assert keys(["add", "shop", "--scope", "rank", "--per-second", "0"]) == 2
    assert "per_second: " in capsys.readouterr().err
    assert keys(["add", "shop", "--scope", "rank", "--burst", "9"]) == 2
    assert "goes with a rate" in capsys.readouterr().err
    assert not file.exists()
    file.write_text("{")
    assert keys(["add", "shop", "--scope", "rank"]) == 2
    assert file.read_text() == "{"


def test_a_process_without_a_private_network_wants_keys_and_keeps_refused_connections(
    environment: dict[str, str], tmp_path: Path
) -> None:
    key, text = ApiKey.new("shop", [Scope.RANK])
    outside = environment | {"LORANK_HOST": "0.0.0.0"}
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, timeout=60, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("lorank: LORANK_HOST=0.0.0.0 is reached from other machines")
    outside |= {"LORANK_KEYS": str(written(tmp_path / "keys.json", key))}
    with subprocess.Popen(command, cwd=ROOT, env=outside) as process:
        try:
            connection = connected(int(outside["LORANK_PORT"]), process)
            for given, status in ((None, 401), (text, 503), (text + "x", 401), (text, 503)):  # there is no release
                lines = {} if given is None else {"Authorization": f"Bearer {given}"}
                connection.request("POST", "/v1/rank", json.dumps(BODY | {"request_id": "x" * 100_000}), lines)
                own = connection.sock
                answer = connection.getresponse()
                answer.read()
                assert answer.status in ((status, 422) if status == 503 else (status,))
                assert connection.sock is own
            connection.close()
        finally:
            process.terminate()


def connected(port: int, process: subprocess.Popen[bytes]) -> http.client.HTTPConnection:
    """A connection to a process that listens, as soon as it does."""
    until = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.connect()
        except ConnectionRefusedError:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            return connection


def test_the_module_runs_it(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "service",
        "keys",
        "--file",
        str(tmp_path / "k.json"),
        "add",
        "me",
        "--scope",
        "rank",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.startswith("lorank_")
