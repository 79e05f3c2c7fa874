"""POST /v1/recommend end to end: candidates are found, filtered, ranked by the same model, and logged."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import faiss
import numpy as np
import pytest

from models.contract.artifact import ItemIndex
from models.contract.events import item_hash
from models.contract.exposures import Exposure
from service.settings import Settings
from tests.service.conftest import Running, eventually, running
from tests.service.tiny import ITEMS, Publisher, score_of
from tests.service.tiny_model import FACTS_SPACE


def facts_index(publisher: Publisher) -> ItemIndex:
    """An index of what is known of the tiny items in the space "facts"."""
    vectors = np.array([item.facts for item in ITEMS], np.float32)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(2))
    hashes = np.array([item_hash(item.id) for item in ITEMS], np.uint64)
    index.add_with_ids(vectors, hashes.view(np.int64))
    content = faiss.serialize_index(index).tobytes()
    publisher.artifacts.mkdir(parents=True, exist_ok=True)
    (publisher.artifacts / "facts.faiss").write_bytes(content)
    return ItemIndex(
        space=FACTS_SPACE.key,
        file="facts.faiss",
        sha256=hashlib.sha256(content).hexdigest(),
        kind="flat",
        effort=0,
        items=len(ITEMS),
        top=200,
        recall=1.0,
    )


async def recommended(service: Running, **body: Any) -> dict[str, Any]:
    response = await service.http.post("/v1/recommend", json={"user_id": "u"} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_wire_shape(service: Running) -> None:
    response = await service.http.post("/v1/recommend", json={"request_id": "r-1", "user_id": "u", "top_k": 3})
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "r-1"
    answer = response.json()
    assert list(answer) == [
        "request_id", "items", "release", "model", "experiments", "knowledge", "retrieved", "degraded", "timing_ms",
    ]  # fmt: skip
    by_score = sorted(ITEMS, key=score_of, reverse=True)
    assert [item["id"] for item in answer["items"]] == [item.id for item in by_score[:3]]
    assert [item["score"] for item in answer["items"]] == pytest.approx(
        [score_of(item) for item in by_score[:3]], rel=1e-5
    )
    assert answer["retrieved"] == {"matching": 0, "neighbours": 0, "popular": 5}
    assert answer["degraded"] == []
    assert set(answer["timing_ms"]) == {"queue", "features", "retrieve", "score", "rerank", "total"}
    assert service.metric("lorank_retrieved_candidates_total", source="popular") == 5
    assert service.metric("lorank_requests_total", route="/v1/recommend", status="200") == 1


async def test_the_same_ranker_orders_what_was_found(service: Running) -> None:
    recommendation = await recommended(service, explain=True)
    ranked = await service.rank(explain=True)
    assert recommendation["items"] == ranked["items"]


async def test_filters(service: Running) -> None:
    assert [item["id"] for item in (await recommended(service, where={"genre": "comedy"}))["items"]] == ["d"]
    assert {item["id"] for item in (await recommended(service, where={"genre": ["comedy", "drama"]}))["items"]} == set(
        "abcde"
    )
    assert {item["id"] for item in (await recommended(service, allow=["a", "b", 7], deny=["b"]))["items"]} == {"a"}
    assert len((await recommended(service, count=2))["items"]) == 2


async def test_a_value_that_no_item_can_have_is_told_with_the_nearest(service: Running) -> None:
    response = await service.http.post("/v1/recommend", json={"where": {"genre": ["Drama"]}})
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "'Drama' is no value of genre; the nearest is 'drama'"


async def test_nothing_found_is_an_answer(service: Running) -> None:
    answer = await recommended(service, allow=[], explain=True, rerank="force")
    assert answer["items"] == []
    assert answer["retrieved"] == {"matching": 0, "neighbours": 0, "popular": 0}
    assert "prior_order" not in answer["degraded"]


async def test_what_a_user_has_seen_is_left_out(service: Running) -> None:
    await service.http.post("/v1/feedback", json={"events": [{"user_id": "u", "item_id": "e", "value": 5}]})
    assert {item["id"] for item in (await recommended(service))["items"]} == set("abcd")
    assert {item["id"] for item in (await recommended(service, exclude_seen=False))["items"]} == set("abcde")


async def test_what_lies_behind_the_history_that_the_model_reads_was_seen_too(service: Running) -> None:
    start = 1_700_000_000_000
    events = [
        {"user_id": "u", "item_id": item, "value": 3, "timestamp_ms": start + at}
        for at, item in enumerate("abcdeedcbe")
    ]
    await service.http.post("/v1/feedback", json={"events": events})
    assert (await recommended(service))["items"] == []  # the model reads four events, in which there is no "a"
    ranked = await service.rank()
    answer = await recommended(service, exclude_seen=False)
    assert answer["items"] == ranked["items"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"count": 0}, "count"),
        ({"count": 10_000}, "count"),
        ({"top_k": 0}, "top_k"),
        ({"allow": "a"}, "allow"),
        ({"allow": [1.5]}, "allow[0]"),
        ({"deny": ["x"] * 2001}, "deny"),
        ({"where": {"genre": {}}}, "where.genre"),
        ({"where": {"colour": "red"}}, "where.colour"),
        ({"where": {"genre": "opera"}}, "where.genre"),
        ({"where": {"genre": ["drama", None]}}, "where.genre"),
        ({"user_id": "u\0"}, "user_id"),
        ({"unit": "\n"}, "unit"),
        ({"allow": ["a", "b\x1f"]}, "allow[1]"),
        ({"deny": ["é\x7f"]}, "deny[0]"),
        ({"candidates": [{"id": "a"}]}, "candidates"),
        ({"deadline_ms": 1e9}, "deadline_ms"),
    ],
)
async def test_what_is_wrong_is_named(service: Running, body: dict[str, Any], field: str) -> None:
    response = await service.http.post("/v1/recommend", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["error"]["field"] == field


async def test_an_index_of_the_release_is_searched(settings: Settings, publisher: Publisher) -> None:
    publisher.publish(indexes={"neighbours": facts_index(publisher).model_dump()})
    async with running(settings) as service:
        status = await service.status()
        assert status["stages"]["retrieval"] == {"state": "on", "reason": ""}
        assert status["release"]["indexes"]["neighbours"]["kind"] == "flat"
        await service.http.post("/v1/feedback", json={"events": [{"user_id": "u", "item_id": "e", "value": 5}]})
        answer = await recommended(service)
        assert answer["degraded"] == []
        assert {item["id"] for item in answer["items"]} == set("abcd")


async def test_an_index_that_cannot_be_used_degrades_the_answer(settings: Settings, publisher: Publisher) -> None:
    broken = facts_index(publisher).model_copy(update={"file": "absent.faiss"})
    publisher.publish(indexes={"neighbours": broken.model_dump()})
    async with running(settings) as service:
        answer = await recommended(service)
        assert answer["degraded"] == ["no_retrieval"]
        assert len(answer["items"]) == 5
        assert (await service.rank())["degraded"] == []
        assert "absent.faiss" in (await service.status())["stages"]["retrieval"]["reason"]


async def test_what_was_recommended_is_exposed(service: Running, publisher: Publisher) -> None:
    answer = await recommended(service, request_id="shown", top_k=2)

    async def exposed() -> list[Any]:
        return list(publisher.redis.xrange(publisher.keys.exposures))  # type: ignore[arg-type]

    ((_, fields),) = await eventually(exposed)
    exposure = Exposure.from_stream(fields)
    assert exposure.request_id == "shown"
    assert list(exposure.items) == [item["id"] for item in answer["items"]]
    assert exposure.candidates == 5
    assert json.dumps(exposure.degraded) == "[]"
