"""Every error of the HTTP surface has one shape, names the field, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from models.contract.keys import Keys
from service.errors import ErrorCode, InvalidRequest, Overloaded, ServiceError, Unavailable
from service.settings import Settings
from tests.service.conftest import Running, running
from tests.service.tiny import Publisher

OK: dict[str, Any] = {"user_id": "u", "candidates": [{"id": "a"}]}


def _detail(response: Any, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    detail: dict[str, Any] = body["error"]
    assert detail["code"] == code
    assert detail["message"]
    assert detail["request_id"] == response.headers["x-request-id"]
    assert detail.get("field") == field
    return detail


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"unit": 1.5}, "unit"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": "é" * 129}, "user_id"),
        ({"candidates": []}, "candidates"),
        ({"candidates": {}}, "candidates"),
        ({"candidates": ["a"]}, "candidates[0]"),
        ({"candidates": [{"id": "a"}] * 3 + [{"id": False}]}, "candidates[3].id"),
        ({"candidates": [{}]}, "candidates[0].id"),
        ({"candidates": [{"id": "a", "score": 1}]}, "candidates[0].score"),
        ({"candidates": [{"id": "a", "features": {"x": {"deep": 1}}}]}, "candidates[0].features.x"),
        ({"candidates": [{"id": "a", "features": {"x": [[1]]}}]}, "candidates[0].features.x"),
        ({"candidates": [{"id": "a", "features": {"x": 2**63}}]}, "candidates[0].features.x"),
        ({"candidates": [{"id": "a", "features": {"": 1}}]}, 'candidates[0].features[""]'),
        ({"candidates": [{"id": str(n)} for n in range(21)]}, "candidates"),
        ({"context": []}, "context"),
        ({"context": {"now": float("nan")}}, "context.now"),
        ({"context": {"now": [float("inf")]}}, "context.now"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": "5"}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"deadline_ms": -1.0}, "deadline_ms"),
        ({"deadline_ms": float("inf")}, "deadline_ms"),
        ({"deadline_ms": 10_000.5}, "deadline_ms"),
        ({"explain": 1}, "explain"),
        ({"rerank": "please"}, "rerank"),
        ({"arms": {"nowhere": "x"}}, "arms.nowhere"),
        ({"arms": {"ranking": "nothing"}}, "arms.ranking"),
        ({"arms": {"ranking": 1}}, "arms.ranking"),
        ({"arms": {"": "x"}}, 'arms[""]'),
        ({"": 1}, '[""]'),
        ({f"k{at}": 1 for at in range(300)}, "k0"),
        ({"context": {f"k{at}": 1 for at in range(300)}}, "context"),
        ({"request_id": "two\r\nlines"}, "request_id"),
        ({"request_id": ""}, "request_id"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_invalid_rank_requests_name_the_field(
    service: Running, store: redis.Redis, keys: Keys, change: dict[str, Any], field: str
) -> None:
    before = sorted(store.scan_iter(f"{keys.prefix}:*"))
    response = await service.http.post("/v1/rank", content=json.dumps(OK | change))
    _detail(response, 422, "invalid", field)
    assert service.app.state.service.status()["exposures"]["queued"] == 0
    assert sorted(store.scan_iter(f"{keys.prefix}:*")) == before


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_candidates": 20, "max_body_bytes": 5000})


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/feedback"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xfd\xfe\x00", b'{"user_id": "\\ud800"}', b"[" * 4000])
async def test_what_is_not_json_is_a_400(service: Running, path: str, content: bytes) -> None:
    _detail(await service.http.post(path, content=content), 400, "malformed", "body")


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"text"'])
async def test_json_that_is_no_object_is_a_422(service: Running, content: bytes) -> None:
    for path in ("/v1/rank", "/v1/feedback"):
        _detail(await service.http.post(path, content=content), 422, "invalid", "body")


async def test_the_request_id_of_a_wrong_body_is_answered(service: Running) -> None:
    response = await service.http.post("/v1/rank", json={"request_id": "mine", "user_id": "u"})
    assert _detail(response, 422, "invalid", "candidates")["request_id"] == "mine"
    response = await service.http.post("/v1/rank", json=OK | {"request_id": "mine", "arms": {"no": "x"}})
    assert _detail(response, 422, "invalid", "arms.no")["request_id"] == "mine"


async def test_bodies_over_the_limit_are_refused_declared_or_not(service: Running) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    _detail(await service.http.post("/v1/rank", content=b" " * 5001), 413, "too_large", "body")
    _detail(await service.http.post("/v1/rank", content=stream()), 413, "too_large", "body")


async def test_unknown_paths_and_methods_have_the_envelope(service: Running) -> None:
    _detail(await service.http.get("/nowhere"), 404, "not_found")
    for method, path, allowed in (("GET", "/v1/rank", "POST"), ("OPTIONS", "/metrics", "GET, HEAD")):
        response = await service.http.request(method, path)
        _detail(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allowed


async def test_without_a_release_nothing_is_ranked(settings: Settings) -> None:
    async with running(settings) as service:
        for response in (await service.http.post("/v1/rank", json=OK), await service.http.get("/readyz")):
            detail = _detail(response, 503, "no_release")
            assert detail["retry_after_ms"] == 1000
            assert response.headers["retry-after"] == "1"
        assert (await service.http.get("/healthz")).status_code == 200


async def test_a_bug_is_a_500_in_the_envelope(settings: Settings, publisher: Publisher) -> None:
    publisher.publish()
    async with running(settings) as service:
        # Force what must not happen: a feature store that raises something the ranker does not know.
        service.app.state.service.ranker.users = None
        _detail(await service.http.post("/v1/rank", json=OK), 500, "internal")


def test_every_kind_of_error_has_one_status() -> None:
    assert {kind.status for kind in ServiceError.__subclasses__()} == {
        400, 401, 403, 404, 408, 413, 415, 422, 429, 431, 503,
    }  # fmt: skip

    class Special(Overloaded):
        pass

    assert Special("x").status == 429
    assert ServiceError("x").status == 500
    assert Unavailable("x", code=ErrorCode.NO_RELEASE).code == "no_release"
    assert InvalidRequest("x").code == "invalid"
