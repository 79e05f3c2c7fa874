"""The pages beside the API proper: OpenAPI, metrics, health."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.docs import POLICY
from service.api.schemas import FeedbackReply, RankReply, RecommendReply
from tests.service.conftest import Running


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in node.values()))
    return set().union(*(_references(entry) for entry in node)) if isinstance(node, list) else set()


async def test_the_openapi_document_is_whole(service: Running) -> None:
    document = (await service.http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    rank = document["paths"]["/v1/rank"]["post"]
    assert rank["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/RankBody"}
    assert rank["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/RankReply")
    assert {"400", "413", "422", "503"} <= set(rank["responses"])
    assert set(schemas["RankBody"]["required"]) == {"candidates"}
    assert schemas["RankBody"]["additionalProperties"] is False
    text, number = schemas["CandidateBody"]["properties"]["id"]["anyOf"]
    assert number == {"type": "integer"}
    assert re.search(text["pattern"], "é 本\x80")
    assert not re.search(text["pattern"], "a\x7f")
    feedback = document["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert len(feedback["anyOf"]) == 2
    assert list(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    assert set(document["paths"]["/readyz"]["get"]["responses"]) == {"200", "503"}


async def test_the_api_page_loads_nothing_from_elsewhere(service: Running) -> None:
    page = await service.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"] == POLICY
    assert "unsafe-inline" not in POLICY.partition("script-src")[2].partition(";")[0]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        answer = await service.http.get(f"/{link}")
        assert (answer.status_code, answer.headers["X-Content-Type-Options"]) == (200, "nosniff"), link
        assert answer.content
    assert not re.search(r"<script(?! src=)|\son\w+=|https?:", page.text)
    assert (await service.http.get("/redoc")).status_code == 404
    assert (await service.http.get("/docs/../../etc/passwd")).status_code == 404


@pytest.mark.parametrize("host", ["x/../..?", "x/swagger-ui.js?", "x/%2e%2e#", "x/y/?", "[", "", "a b\\c"])
async def test_no_host_and_no_path_chooses_a_file_of_the_api_page(service: Running, host: str) -> None:
    """A request's URL is made of its Host and its path."""
    for name in ("favicon.png", "swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        usual = await service.http.get(f"/docs/{name}")
        answer = await service.http.get(f"/docs/{name}", headers={"Host": host})
        assert (answer.status_code, answer.content) == (200, usual.content)
    for path in ("..%2f..%2fetc%2fpasswd", "swagger-ui.css/../x", "%2e%2e/app.py", "a%00b", "swagger-ui-bundle.js.map"):
        assert (await service.http.get(f"/docs/{path}", headers={"Host": host})).status_code == 404


async def test_the_answer_is_what_the_document_says(service: Running) -> None:
    answer = await service.rank(explain=True)
    assert msgspec.to_builtins(msgspec.convert(answer, RankReply)) == answer
    answer = (await service.http.post("/v1/recommend", json={"user_id": "u"})).json()
    assert msgspec.to_builtins(msgspec.convert(answer, RecommendReply)) == answer
    response = await service.http.post("/v1/feedback", json={"user_id": "u", "item_id": "a", "value": 5})
    assert msgspec.to_builtins(msgspec.convert(response.json(), FeedbackReply)) == response.json()


async def test_metrics_are_prometheus_text(service: Running) -> None:
    await service.rank()
    response = await service.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"lorank_requests", "lorank_stage_seconds", "lorank_release_info", "lorank_knowledge_records"} <= families
    assert service.metric("lorank_stage_seconds_count", stage="total") == 1
    assert service.metric("lorank_requests_total", route="/v1/rank", status="200") == 1


async def test_every_page_answers_head(service: Running) -> None:
    paths = (await service.http.get("/openapi.json")).json()["paths"]
    for path in [path for path, methods in paths.items() if "get" in methods and "{" not in path]:
        response = await service.http.head(path)
        assert response.status_code == 200, path
        assert response.headers["content-type"] == (await service.http.get(path)).headers["content-type"]


async def test_the_openapi_document_tells_the_limits_and_what_routes_do(service: Running) -> None:
    document = (await service.http.get("/openapi.json")).json()
    limits = service.app.state.service.limits
    rank = document["components"]["schemas"]["RankBody"]["properties"]
    assert rank["candidates"]["maxItems"] == limits.max_candidates
    assert rank["deadline_ms"]["anyOf"][0]["maximum"] == limits.max_deadline_ms
    event = document["components"]["schemas"]["EventBody"]
    assert event["required"] == ["user_id", "item_id"]
    assert "without control characters" in event["properties"]["user_id"]["description"]
    assert "type" in document["components"]["schemas"]["IgnoredReply"]["properties"]["reason"]["enum"]
    for identifier in (event["properties"]["user_id"], event["properties"]["item_id"]):
        assert "1 to 256 bytes" in identifier["description"]
    assert rank["user_id"]["anyOf"][0]["maxLength"] == 256
    for path, routes in document["paths"].items():
        for route in routes.values():
            assert route["description"], path


async def test_probes_may_ask_with_head(service: Running) -> None:
    for path in ("/healthz", "/readyz"):
        get, head = await service.http.get(path), await service.http.head(path)
        assert (head.status_code, head.headers) == (get.status_code, get.headers)


async def test_health(service: Running) -> None:
    assert (await service.http.get("/healthz")).json() == {"status": "alive"}
    assert (await service.http.get("/readyz")).json() == {"status": "ready", "release": "r1"}
