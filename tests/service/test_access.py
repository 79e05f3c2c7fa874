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
from typing import Any

import httpx2
import pytest
import redis
from pydantic import ValidationError
from starlette.routing import Route

from models.contract.keys import Keys
from models.contract.leaving import is_loopback
from models.contract.requests import JobRequest, Report, ReportKind, RequestKind
from service.access import Access, ApiKey, KeysFile, Scope
from service.app import create_app
from service.errors import Forbidden, RateLimited, Unauthenticated
from service.keys import main as keys
from service.settings import Settings, SettingsError
from tests.conftest import ROOT
from tests.service.conftest import eventually, running
from tests.service.tiny import Publisher

BODY = {"user_id": "u1", "candidates": [{"id": "a"}, {"id": "b"}]}
ORIGIN = "https://shop.example"
DOCS = ("/docs", "/docs/start.js", "/docs/favicon.png", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js")
ROUTES: dict[tuple[str, str], tuple[tuple[Scope, ...], object]] = {
    ("POST", "/v1/rank"): ((Scope.RANK,), BODY),
    ("POST", "/v1/recommend"): ((Scope.RANK,), {"user_id": "u1", "top_k": 3}),
    ("POST", "/v1/feedback"): ((Scope.FEEDBACK,), {"user_id": "u1", "item_id": "a", "value": 5}),
    ("POST", "/v1/arms"): ((Scope.RANK, Scope.ARMS), {"user_id": "u1"}),
    ("OPTIONS", "/v1/arms"): ((), None),
    ("DELETE", "/v1/users/{user_id:path}"): ((Scope.ADMIN,), None),
    ("PUT", "/v1/users/{user_id:path}/opt-out"): ((Scope.ADMIN,), None),
    ("PUT", "/v1/users/{user_id:path}/opt-in"): ((Scope.ADMIN,), None),
    ("GET", "/v1/users/{user_id:path}/export"): ((Scope.ADMIN,), None),
    ("POST", "/v1/users/{user_id:path}/export"): ((Scope.ADMIN,), None),
    ("POST", "/v1/requests"): ((Scope.PUBLISH,), {"kind": "dry_run"}),
    ("GET", "/v1/requests"): ((Scope.ADMIN,), None),
    ("GET", "/v1/requests/{request_id}"): ((Scope.ADMIN,), None),
    ("GET", "/v1/reports"): ((Scope.ADMIN,), None),
    ("GET", "/v1/reports/{name}"): ((Scope.ADMIN,), None),
    ("GET", "/metrics"): ((Scope.METRICS,), None),
    ("GET", "/v1/status"): ((Scope.ADMIN,), None),
    ("GET", "/healthz"): ((), None),
    ("GET", "/readyz"): ((), None),
    **{("GET", path): ((), None) for path in ("/openapi.json", *DOCS)},
}
"""Every route with the scopes that open it, none if it is open, and a body that it takes. HEAD is as GET."""

ASKED = JobRequest.new(RequestKind.DRY_RUN)
REPORT = Report(name="run-1", kind=ReportKind.RUN, made_ms=1, body={})
PLACES = {"{user_id:path}": "u1", "{request_id}": ASKED.id, "{name}": REPORT.name}
"""What stands for the parameters of a path."""


def new_key(scope: Scope, **limits: Any) -> tuple[ApiKey, str]:
    """A key of that scope alone, and its text."""
    if scope is Scope.ARMS:
        limits = {"origins": (ORIGIN,), "per_second": 1000.0} | limits
    return ApiKey.new(scope, [scope], **limits)


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
    assert (refused.value.limit, refused.value.seconds, refused.value.retry_after_ms) == (10.0, 1, 200)
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


def wrong(text: str) -> str:
    """The text of a key with another last character."""
    return text[:-1] + ("A" if text[-1] != "A" else "B")


async def test_every_route_with_every_scope(settings: Settings, publisher: Publisher, tmp_path: Path) -> None:
    """With none, with each, with wrong, expired and revoked keys. The routes are the application's own: a new one must
    be listed above."""
    keys_of = {scope: new_key(scope) for scope in Scope}
    revoked_of = {scope: new_key(scope) for scope in Scope}
    late = datetime.now(UTC) - timedelta(seconds=1)
    expired_of = {scope: new_key(scope, expires=late) for scope in Scope}
    lasting = [key for key, _ in (*keys_of.values(), *expired_of.values())]
    path = written(tmp_path / "keys.json", *lasting, *(key for key, _ in revoked_of.values()))
    publisher.publish()
    publisher.redis.set(publisher.keys.request(ASKED.id), ASKED.model_dump_json())
    publisher.redis.set(publisher.keys.report(REPORT.name), REPORT.pack())
    watched = settings.model_copy(update={"keys": path, "release_poll_seconds": 0.05})
    async with running(watched) as service:
        routes = {
            (method, route.path)
            for route in service.app.routes
            if isinstance(route, Route)
            for method in route.methods or ()
        }
        assert {("GET" if method == "HEAD" else method, path) for method, path in routes} == set(ROUTES)

        async def answered(route: tuple[str, str], text: str | None) -> httpx2.Response:
            body = ROUTES["GET" if route[0] == "HEAD" else route[0], route[1]][1]
            given = {"Origin": ORIGIN} | ({} if text is None else {"Authorization": f"Bearer {text}"})
            target = route[1]
            for parameter, value in PLACES.items():
                target = target.replace(parameter, value)
            return await service.http.request(
                route[0], target, content=None if body is None else json.dumps(body), headers=given
            )

        def opening(route: tuple[str, str]) -> tuple[Scope, ...]:
            return ROUTES["GET" if route[0] == "HEAD" else route[0], route[1]][0]

        for route in sorted(routes):
            scopes = opening(route)
            for scope, (_, text) in keys_of.items():
                status = (await answered(route, text)).status_code
                assert status == 403 if scopes and scope not in scopes else status in (200, 202, 204), (route, scope)
                assert (await answered(route, revoked_of[scope][1])).status_code == status, (route, scope)
                for refused in (wrong(text), expired_of[scope][1]):
                    assert (await answered(route, refused)).status_code == (401 if scopes else status), (route, scope)
            nothing = await answered(route, None)
            if not scopes:
                assert nothing.is_success, route
            elif route[1] == "/v1/status":
                assert nothing.status_code == 200
                if route[0] == "GET":
                    assert nothing.json() == {"release": {"id": "r1"}}
            else:
                assert (nothing.status_code, nothing.headers["WWW-Authenticate"]) == (401, "Bearer"), route
        written(path, *lasting)
        former = {str(key) for key, _ in revoked_of.values()}
        await eventually(lambda: not former & {*service.app.state.service.status()["access"]["keys"]})
        for route in sorted(routes):
            for _, text in revoked_of.values():
                refused_now = bool(opening(route)) and (await answered(route, text)).status_code != 401
                assert not refused_now, route
        whole = (await answered(("GET", "/v1/status"), keys_of[Scope.ADMIN][1])).json()
        assert whole["access"]["keys"] == sorted(map(str, lasting))
        assert not [key.id for key in lasting if f"lorank_{key.id}" in str(whole)]
        documented = (await service.http.get("/openapi.json")).json()
        schemes: list[dict[str, list[str]]] = [{name: []} for name in documented["components"]["securitySchemes"]]
        pages = {
            (method.upper(), target.replace("{user_id}", "{user_id:path}")): page
            for target, methods in documented["paths"].items()
            for method, page in methods.items()
        }
        for route, page in pages.items():
            assert ({"401", "403"} <= set(page["responses"])) == bool(ROUTES[route][0]), route
            assert page.get("security") == (schemes if ROUTES[route][0] else None), route
        assert {route for route, (scopes, _) in ROUTES.items() if scopes} <= set(pages)


async def test_without_keys_no_page_of_somebody_else_may_call_any_route(
    settings: Settings, publisher: Publisher
) -> None:
    """A browser on the machine sends what any page asks it to, and a page's owner may let its name point here."""
    publisher.publish()
    publisher.redis.set(publisher.keys.request(ASKED.id), ASKED.model_dump_json())
    publisher.redis.set(publisher.keys.report(REPORT.name), REPORT.pack())
    own, port = "http://localhost", "http://127.0.0.1:8000"
    refusals = {
        ("localhost", "https://evil.example"): "Origin",
        ("localhost", "null"): "Origin",
        ("localhost:8000", own): "Origin",
        ("evil.example", "http://evil.example"): "Host",
        ("evil.example:8000", None): "Host",
    }
    welcome = [("localhost", None), ("localhost", own), ("127.0.0.1:8000", port), ("[::1]:8000", None)]
    sites = {
        "cross-site": 403,
        "same-site": 403,
        "same-origin": 200,
        "none": 200,
    }  # as images of a page, without Origin
    for is_private in (False, True):
        async with running(settings.model_copy(update={"private_network": is_private})) as service:

            async def answered(
                route: tuple[str, str], host: str, origin: str | None, site: str = ""
            ) -> httpx2.Response:
                others = {"Origin": origin, "Sec-Fetch-Site": site}
                given = {"Host": host} | {name: value for name, value in others.items() if value}
                target, body = route[1], ROUTES[route][1]
                for parameter, value in PLACES.items():
                    target = target.replace(parameter, value)
                content = None if body is None else json.dumps(body)
                return await service.http.request(route[0], target, content=content, headers=given)

            for route in [route for route, (scopes, _) in ROUTES.items() if scopes]:
                for (host, origin), field in refusals.items():
                    answer = await answered(route, host, origin)
                    if is_private and field == "Host":  # other names are the private network's own
                        assert answer.is_success, (route, host, origin)
                    else:
                        assert (answer.status_code, answer.json()["error"]["field"]) == (403, field), (route, host)
                for host, origin in welcome:
                    assert (await answered(route, host, origin)).is_success, (route, host, origin)
                for site, status in sites.items():
                    answer = await answered(route, "localhost", None, site)
                    if status == 403:
                        assert (answer.status_code, answer.json()["error"]["field"]) == (403, "Sec-Fetch-Site"), route
                    else:
                        assert answer.is_success, (route, site)


async def test_pages_of_a_public_key_may_ask_for_arms_and_for_nothing_else(
    settings: Settings, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish()
    other = "https://other.example"
    key, text = new_key(Scope.ARMS, per_second=0.001, burst=1)
    server, secret = new_key(Scope.RANK)
    held_by_others, _ = new_key(Scope.ARMS, origins=(other,))
    path = written(tmp_path / "keys.json", key, server, held_by_others)
    async with running(settings.model_copy(update={"keys": path})) as service:

        async def asked(origin: str | None, text: str | None, method: str = "POST") -> httpx2.Response:
            given = {"Origin": origin, "Authorization": text and f"Bearer {text}"}
            content = json.dumps({"user_id": "u1"}) if method == "POST" else None
            headers = {name: value for name, value in given.items() if value}
            return await service.http.request(method, "/v1/arms", content=content, headers=headers)

        def readable_by(answer: httpx2.Response) -> str | None:
            return answer.headers.get("Access-Control-Allow-Origin")

        before = await asked(ORIGIN, None, "OPTIONS")
        assert (before.status_code, readable_by(before)) == (204, ORIGIN)
        assert before.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"
        strange = await asked("https://evil.example", None, "OPTIONS")
        assert (strange.status_code, readable_by(strange)) == (403, None)
        for origin in (other, "https://evil.example", "null", None):
            refused = await asked(origin, text)
            assert (refused.status_code, readable_by(refused)) == (403, None), origin
        answer = await asked(ORIGIN, text)
        assert (answer.status_code, readable_by(answer), answer.headers["Vary"]) == (200, ORIGIN, "Origin")
        assert answer.json()["experiments"] == []
        limited = await asked(ORIGIN, text)
        assert (limited.status_code, readable_by(limited)) == (429, ORIGIN)
        assert readable_by(await asked(ORIGIN, secret)) is None
        for target in ("/v1/rank", "/v1/status"):
            headers = {"Origin": ORIGIN, "Authorization": f"Bearer {secret}"}
            assert readable_by(await service.http.post(target, json=BODY, headers=headers)) is None
            preflight = await service.http.request("OPTIONS", target, headers={"Origin": ORIGIN})
            assert (preflight.status_code, readable_by(preflight)) == (405, None)


ARMS = """
[[layers]]
name = "home"

[[layers.experiments]]
name = "colours"
sticky_days = 1

[[layers.experiments.arms]]
name = "red"
weight = 1
[[layers.experiments.arms]]
name = "blue"
weight = 1
knowledge = "off"
"""


async def test_the_arms_are_those_that_a_ranking_names_and_nothing_is_written(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    publisher.publish()
    path = tmp_path / "experiments.toml"
    path.write_text(ARMS)
    async with running(settings.model_copy(update={"experiments": path})) as service:

        async def arms(body: dict[str, Any]) -> Any:
            answer = await service.http.post("/v1/arms", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()["experiments"]

        units: list[dict[str, Any]] = [{"user_id": f"u{at}"} for at in range(20)]
        units += [{"user_id": "u0", "unit": "session"}, {"user_id": "", "unit": "session"}, {"user_id": "", "unit": 7}]
        units += [{"user_id": "null"}, {"user_id": ""}]
        asked = [await arms(unit) for unit in units]
        assert not store.keys(f"{keys.prefix}:*:arms")
        assert not store.exists(keys.exposures)
        ranked = [await service.rank(unit["user_id"], unit=unit.get("unit")) for unit in units]
        assert asked == [answer["experiments"] for answer in ranked]
        assert {arm["arm"] for arms in asked for arm in arms} == {"red", "blue"}
        store.hset(keys.unit_arms("u0"), mapping={"colours__0": "red"})
        store.hset(keys.unit_arms("u1"), mapping={"colours__0": "red"})
        assert [(await arms({"user_id": user}))[0]["arm"] for user in ("u0", "u1")] == ["red", "red"]
        wrong = await service.http.post("/v1/arms", json={"user_id": "u", "candidates": []})
        assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "candidates")


async def test_a_key_has_quotas_of_bytes_and_of_new_users(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    publisher.publish()
    both = [Scope.RANK, Scope.FEEDBACK]
    key, text = ApiKey.new("shop", both, bytes_per_minute=1000, new_users_per_minute=3)
    path = written(tmp_path / "keys.json", key)
    async with running(settings.model_copy(update={"keys": path})) as service:
        lines = {"Authorization": f"Bearer {text}"}

        async def fed(*users: str) -> httpx2.Response:
            events = [{"user_id": user, "item_id": "a", "value": 5} for user in users]
            return await service.http.post("/v1/feedback", json={"events": events}, headers=lines)

        many = await fed("n1", "n2", "n3", "n4")
        assert (many.status_code, many.json()["error"]["code"]) == (422, "invalid")  # waiting would not help
        assert not store.keys(f"{keys.prefix}:*:history")
        assert not store.exists(keys.interactions)
        assert (await fed("n1", "n2")).status_code == 200
        assert (await fed("n1", "n2")).status_code == 200  # known by now
        refused = await fed("n3", "n4")
        assert (refused.status_code, refused.headers["RateLimit-Limit"]) == (429, "3;w=60")
        assert 1 <= int(refused.headers["Retry-After"]) <= 20
        assert store.keys(f"{keys.prefix}:*n3*:history") == []
        assert (await fed("n3")).status_code == 200
        long = await service.http.post("/v1/rank", json=BODY | {"context": {"x": "y" * 900}}, headers=lines)
        assert (long.status_code, long.headers["RateLimit-Limit"]) == (429, "1000;w=60")
        longer = await service.http.post("/v1/rank", json=BODY | {"context": {"x": "y" * 1000}}, headers=lines)
        assert (longer.status_code, longer.json()["error"]["field"]) == (422, "body")  # waiting would not help
        assert "--bytes-per-minute" in longer.json()["error"]["message"]


def test_a_public_key_is_not_what_others_are() -> None:
    new_key(Scope.ARMS)
    for scopes, limits in (
        ([Scope.ARMS], {"per_second": 1.0}),
        ([Scope.ARMS], {"origins": (ORIGIN,)}),
        ([Scope.RANK], {"per_second": 1.0, "origins": (ORIGIN,)}),
        ([Scope.ARMS, Scope.RANK], {"per_second": 1.0, "origins": (ORIGIN,)}),
        ([Scope.ARMS], {"per_second": 1.0, "origins": ("*",)}),
        ([Scope.ARMS], {"per_second": 1.0, "origins": (f"{ORIGIN}/",)}),
    ):
        with pytest.raises(ValidationError, match=r"origins|rate"):
            ApiKey.new("web", scopes, **limits)


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
    status, _ = run("add", "web", "--public", "--origin", ORIGIN)
    (public,) = KeysFile.parse(file.read_bytes()).keys
    assert (status, public.scopes, public.origins, public.per_second) == (0, (Scope.ARMS,), (ORIGIN,), 50.0)
    quotas = ("--user-events-per-minute", "5000", "--events-per-minute", "7")
    assert run("add", "loader", "--scope", "feedback", *quotas)[0] == 0
    status, lines = run("list")
    assert [ORIGIN in lines[1], "5000 events of a user/min, 7 events/min" in lines[2]] == [True, True]
    assert not [path for path in file.parent.iterdir() if path.name not in ("keys.json", "keys.json.lock")]


def test_a_wrong_name_or_file_is_one_line_and_loses_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(["add", "a b", "--scope", "rank"]) == 2
    assert "name: " in capsys.readouterr().err
    assert keys(["add", "shop", "--scope", "rank", "--per-second", "0"]) == 2
    assert "per_second: " in capsys.readouterr().err
    assert keys(["add", "web", "--public"]) == 2
    assert "origins" in capsys.readouterr().err
    assert keys(["add", "web", "--public", "--scope", "rank", "--origin", ORIGIN]) == 2
    assert "the scope arms alone" in capsys.readouterr().err
    assert keys(["add", "shop"]) == 2
    assert "scopes: " in capsys.readouterr().err
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
