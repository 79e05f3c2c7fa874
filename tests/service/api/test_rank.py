"""POST /v1/rank end to end: the wire shape, cold start, duplicates, explain, what knowledge counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from models.contract.events import Interaction, unpack_history
from models.contract.exposures import Exposure, history_digest
from models.contract.keys import Keys
from models.contract.profile import UserProfile
from tests.service.conftest import Running, eventually
from tests.service.tiny import ITEMS, Publisher, TinyItem, score_of
from tests.service.tiny_model import PORTRAIT_SPACE


async def test_wire_shape(service: Running) -> None:
    response = await service.http.post(
        "/v1/rank", json={"request_id": "r-1", "user_id": "u", "candidates": [{"id": item.id} for item in ITEMS]}
    )
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "r-1"
    answer = response.json()
    assert list(answer) == [
        "request_id", "items", "release", "model", "experiments", "knowledge", "degraded", "timing_ms",
    ]  # fmt: skip
    assert answer["request_id"] == "r-1"
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
    assert all(set(item) == {"id", "score", "rank"} for item in answer["items"])
    assert answer["release"] == "r1"
    assert answer["model"] == {"name": "tiny", "version": "1"}
    assert answer["experiments"] == []
    assert answer["knowledge"] == {"fresh": 10, "stale": 0, "missing": 2}
    assert answer["degraded"] == []
    assert set(answer["timing_ms"]) == {"queue", "features", "score", "rerank", "total"}
    by_id = {item["id"]: item["score"] for item in answer["items"]}
    for item in ITEMS:
        assert by_id[item.id] == pytest.approx(score_of(item), rel=1e-5)
    assert [item["score"] for item in answer["items"]] == sorted(by_id.values(), reverse=True)


async def test_a_cold_user_is_counted_and_not_degraded(service: Running) -> None:
    answer = await service.rank("nobody")
    assert answer["degraded"] == []
    assert service.metric("lorank_unknown_users_total") == 1
    assert service.metric("lorank_knowledge_records_total", state="missing") == 2
    assert service.metric("lorank_requests_total", route="/v1/rank", status="200") == 1


async def test_unknown_candidates_are_ranked_by_the_features_of_the_request(service: Running) -> None:
    answer = await service.rank(
        candidates=["a", "x", {"id": "y", "features": {"genre": ["comedy", "horror"], "other": None}}]
    )
    scores = {item["id"]: item["score"] for item in answer["items"]}
    assert scores["y"] > scores["x"]  # the same prior, but the request says something about it
    assert answer["knowledge"] == {"fresh": 2, "stale": 0, "missing": 6}
    assert service.metric("lorank_unknown_candidates_total") == 2


async def test_features_of_the_request_do_not_override_the_catalogue(service: Running) -> None:
    plain = await service.rank(candidates=["a"])
    described = await service.rank(candidates=[{"id": "a", "features": {"genre": "horror"}}])
    assert described["items"] == plain["items"]


async def test_the_first_of_equal_candidates_stays(service: Running) -> None:
    answer = await service.rank(candidates=[{"id": "y", "features": {"genre": "horror"}}, "a", "y", "a", 1, "1"])
    assert sorted(item["id"] for item in answer["items"]) == ["1", "a", "y"]
    assert service.metric("lorank_duplicate_candidates_total") == 3
    alone = await service.rank(candidates=[{"id": "y", "features": {"genre": "horror"}}])
    assert alone["items"][0] in [item | {"rank": 1} for item in answer["items"]]


async def test_integer_ids_are_answered_as_strings(service: Running) -> None:
    response = await service.http.post("/v1/rank", json={"user_id": 7, "candidates": [{"id": 42}]})
    assert response.json()["items"][0]["id"] == "42"


async def test_top_k_answers_the_best(service: Running) -> None:
    everything = await service.rank()
    assert (await service.rank(top_k=2))["items"] == everything["items"][:2]
    assert (await service.rank(top_k=99))["items"] == everything["items"]


async def test_equal_scores_keep_the_order_of_the_request(service: Running) -> None:
    answer = await service.rank(candidates=["z", "x", "y"])
    assert [item["id"] for item in answer["items"]] == ["z", "x", "y"]


async def test_knowledge_of_the_user_and_of_items_counts_and_scores(service: Running, publisher: Publisher) -> None:
    stale = TinyItem("s", vector=(0.5, 0.25, 0.0), facts=(0.5, -1.0), knowledge_expires_at=1)
    without = TinyItem("w", vector=None, facts=(0.25, 2.0))
    publisher.publish("r2", items=(ITEMS[0], stale, without))
    publisher.user_knowledge("u", [[9.0, 9.0, 9.0], [1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])  # only the last two rows fit
    publisher.user_knowledge("u", [[0.5, 1.0]], expires_at=1, space=PORTRAIT_SPACE)

    async def swapped() -> bool:
        return bool((await service.status())["release"]["id"] == "r2")

    await eventually(swapped)
    answer = await service.rank("u", ["a", "s", "w"], explain=True)
    assert answer["knowledge"] == {"fresh": 4, "stale": 3, "missing": 1}
    for item, known in zip(
        sorted(answer["items"], key=lambda item: str(item["id"])), (ITEMS[0], stale, without), strict=True
    ):
        assert item["score"] == pytest.approx(score_of(known, partitions=3.0, portrait=(0.5, 1.0)), rel=1e-5)
        bare = item["explain"]["score_without_knowledge"]
        assert bare == pytest.approx(score_of(known, knowledge=False), rel=1e-5)
    publisher.user_knowledge("u", [[0.0, 0.0, 0.0]], expires_at=1)
    assert (await service.rank("u", ["a"]))["knowledge"] == {"fresh": 2, "stale": 2, "missing": 0}


async def test_profile_and_history_reach_the_model(service: Running, store: redis.Redis, keys: Keys) -> None:
    profile = UserProfile(owner="u", features={"gender": "F", "age": 30})
    store.set(keys.user_profile("u"), profile.pack())
    values = [1.0, 5.0, 4.0, 5.0, 5.0, 2.0]
    for at, value in enumerate(values):
        store.append(keys.user_history("u"), Interaction(user_id="u", item_id="a", value=value, time_ms=at).pack())
    answer = await service.rank("u", ["a"])
    assert answer["items"][0]["score"] == pytest.approx(score_of(ITEMS[0], history=values), rel=1e-5)
    assert service.metric("lorank_unknown_users_total") == 0


async def test_two_thousand_candidates(service: Running) -> None:
    answer = await service.rank(candidates=[f"{'é' * 120}{at}" for at in range(1995)] + [item.id for item in ITEMS])
    assert len(answer["items"]) == 2000
    assert answer["degraded"] == []
    assert [item["rank"] for item in answer["items"]] == list(range(1, 2001))


async def test_forced_reranking_without_a_reranker_says_so(service: Running) -> None:
    plain = await service.rank(rerank="off")
    assert plain["degraded"] == (await service.rank(rerank="auto"))["degraded"] == []
    forced = await service.rank(rerank="force")
    assert forced["degraded"] == ["no_rerank", "rerank_off"]
    assert forced["items"] == plain["items"]
    assert service.metric("lorank_degraded_total", word="no_rerank") == 1


async def test_the_exposure_tells_what_was_shown_and_why(service: Running, store: redis.Redis, keys: Keys) -> None:
    for at in range(6):
        store.append(keys.user_history("u"), Interaction(user_id="u", item_id="a", value=4.0, time_ms=at).pack())
    answer = await service.rank(
        "u", ["a", {"id": "new", "features": {"genre": "drama"}}, "b"], request_id="joined", top_k=2, explain=True
    )
    entries = await eventually(lambda: store.xrange(keys.exposures))
    (exposure,) = [Exposure.from_stream(fields) for _, fields in entries]
    assert exposure.request_id == "joined"
    assert exposure.user_id == "u"
    assert exposure.release == "r1"
    assert exposure.arms == ()
    assert exposure.unit == "u"
    assert exposure.candidates == 3
    assert exposure.latency_ms == answer["timing_ms"]["total"]
    assert exposure.knowledge
    assert exposure.degraded == ()
    assert list(exposure.items) == [item["id"] for item in answer["items"]]
    assert list(exposure.scores) == [item["score"] for item in answer["items"]]
    shown = {"new": {"genre": "drama"}} if "new" in exposure.items else {}
    assert exposure.item_features == shown
    events, _ = unpack_history("u", store.get(keys.user_history("u")) or b"")  # type: ignore[arg-type]
    assert exposure.history_events == 4
    assert exposure.history_digest == history_digest(events[-4:])


async def test_null_is_as_if_absent(service: Running) -> None:
    plain = await service.rank()
    nothing: dict[str, Any] = dict.fromkeys(
        ("request_id", "context", "top_k", "deadline_ms", "explain", "rerank", "arms"), None
    )
    answer = await service.rank(**nothing)
    assert answer["items"] == plain["items"]
    assert answer["experiments"] == plain["experiments"]
    assert answer["degraded"] == []


async def test_the_clock_starts_when_the_headers_arrive(service: Running) -> None:
    async def upload(**more: Any) -> AsyncIterator[bytes]:
        raw = json.dumps({"user_id": "u", "candidates": [{"id": "a"}]} | more).encode()
        yield raw[:10]
        await asyncio.sleep(0.2)
        yield raw[10:]

    in_time = (await service.http.post("/v1/rank", content=upload())).json()
    assert in_time["timing_ms"]["total"] >= 190.0
    assert in_time["timing_ms"]["total"] > sum(in_time["timing_ms"][step] for step in ("features", "score", "rerank"))
    assert in_time["degraded"] == []
    late = (await service.http.post("/v1/rank", content=upload(deadline_ms=100))).json()
    assert late["degraded"] == ["no_knowledge", "no_features", "prior_order"]
    assert set(late["timing_ms"]) == {"queue", "features", "score", "rerank", "total"}
