"""POST /v1/feedback end to end: what it stores, and that the next request of the user sees it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from models.contract.events import EVENT_BYTES, Interaction, unpack_history
from models.contract.keys import Keys
from service.settings import Settings
from tests.service.conftest import Running, running
from tests.service.tiny import ITEMS, score_of

EVENT = {"user_id": "u", "item_id": "a", "value": 3}


def _stream(store: redis.Redis, keys: Keys) -> list[Interaction]:
    entries: Any = store.xrange(keys.interactions)
    return [Interaction.from_stream(fields) for _, fields in entries]


def _values(store: redis.Redis, keys: Keys, user: str = "u") -> list[float]:
    events, refused = unpack_history(user, store.get(keys.user_history(user)) or b"")  # type: ignore[arg-type]
    assert refused == 0
    return [float(value) for value in events["value"]]


async def _send(service: Running, body: Any) -> dict[str, Any]:
    response = await service.http.post("/v1/feedback", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_the_next_rank_sees_it(service: Running) -> None:
    before = await service.rank("u", ["a"])
    await _send(service, {"user_id": "u", "item_id": "b", "value": 5})
    after = await service.rank("u", ["a"])
    assert before["items"][0]["score"] == pytest.approx(score_of(ITEMS[0]), rel=1e-5)
    assert after["items"][0]["score"] == pytest.approx(score_of(ITEMS[0], history=[5.0]), rel=1e-5)


async def test_batches_and_single_events(service: Running, store: redis.Redis, keys: Keys) -> None:
    events = [
        {"user_id": "u", "item_id": 1, "value": 4.5, "timestamp_ms": 10, "request_id": "r"},
        {"user_id": "v", "item_id": "2", "type": "click", "value": 99, "timestamp_ms": 11},
        {"user_id": "u", "item_id": "3", "value": 1, "timestamp_ms": 12},
    ]
    assert await _send(service, {"request_id": "f", "events": events}) == {"accepted": 3, "request_id": "f"}
    single = await _send(service, {"user_id": "v", "item_id": "4", "value": 2})
    assert single["accepted"] == 1
    stored = _stream(store, keys)
    assert stored[0] == Interaction(user_id="u", item_id="1", value=4.5, time_ms=10, request_id="r")
    assert [interaction.item_id for interaction in stored] == ["1", "2", "3", "4"]
    assert [interaction.request_id for interaction in stored] == ["r", "f", "f", None]
    assert abs(stored[3].time_ms - time.time() * 1000) < 600_000
    assert _values(store, keys, "u") == [4.5, 1.0]
    assert _values(store, keys, "v") == [2.0]  # a click is no history type of the tiny schema
    assert service.metric("lorank_interactions_total", type="rating") == 3
    assert service.metric("lorank_interactions_total", type="other") == 1


async def test_a_retry_changes_the_history_once(service: Running, store: redis.Redis, keys: Keys) -> None:
    events = [{"user_id": "u", "item_id": "a", "value": 1 + at % 5, "timestamp_ms": at} for at in range(100)]
    for _ in range(2):
        await _send(service, {"events": events})
    assert _values(store, keys) == [float(1 + at % 5) for at in range(100)]


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update=getattr(request, "param", {}))


@pytest.mark.parametrize("settings", [{"history_max_events": 5}], indirect=True)
async def test_the_history_is_trimmed(service: Running, store: redis.Redis, keys: Keys) -> None:
    events = [{"user_id": "u", "item_id": "a", "value": 1 + at / 4, "timestamp_ms": at} for at in range(12)]
    await _send(service, {"events": events})
    assert _values(store, keys) == [2.75, 3.0, 3.25, 3.5, 3.75]


async def test_a_torn_history_is_repaired(service: Running, store: redis.Redis, keys: Keys) -> None:
    await _send(service, {"user_id": "u", "item_id": "a", "value": 1, "timestamp_ms": 1})
    store.append(keys.user_history("u"), b"torn")
    assert (await service.rank("u"))["degraded"] == ["no_features"]
    await _send(service, {"user_id": "u", "item_id": "a", "value": 2, "timestamp_ms": 2})
    assert _values(store, keys) == [1.0, 2.0]
    assert store.strlen(keys.user_history("u")) == 2 * EVENT_BYTES
    assert (await service.rank("u"))["degraded"] == []


@pytest.mark.own_valkey
async def test_a_restarted_redis_gets_the_script_again(service: Running, store: redis.Redis, keys: Keys) -> None:
    store.script_flush()
    await _send(service, {"events": [{"user_id": "u", "item_id": "a", "value": 3, "timestamp_ms": 1}]})
    store.script_flush()
    await _send(service, {"events": [{"user_id": "u", "item_id": "a", "value": 3, "timestamp_ms": 2}]})
    assert len(_values(store, keys)) == 2
    assert len(_stream(store, keys)) == 2


async def test_a_history_that_cannot_be_appended_to_is_a_503(service: Running, store: redis.Redis, keys: Keys) -> None:
    store.lpush(keys.user_history("u"), "not a string")
    response = await service.http.post("/v1/feedback", json=EVENT)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "redis_unavailable"
    assert response.json()["error"]["retry_after_ms"] == 1000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"events": []}, "events"),
        ({"events": [EVENT] * 1001}, "events"),
        ({"events": [{"user_id": "u"}]}, "events[0].item_id"),
        ({"events": [{"user_id": "u", "item_id": "a", "value": float("nan")}]}, "events[0].value"),
        ({"events": [{"user_id": "u", "item_id": "a", "value": 1e39}]}, "events[0].value"),
        ({"events": [{"user_id": "u", "item_id": "a", "value": "5"}]}, "events[0].value"),
        ({"events": [EVENT | {"type": ""}]}, "events[0].type"),
        ({"events": [EVENT | {"timestamp_ms": -1}]}, "events[0].timestamp_ms"),
        ({"events": [EVENT | {"timestamp_ms": 2**50}]}, "events[0].timestamp_ms"),
        ({"events": [EVENT | {"more": 1}]}, "events[0].more"),
        (EVENT | {"timestamp_ms": 2**50}, "timestamp_ms"),
        ({"user_id": "u", "item_id": "", "value": 1}, "item_id"),
        ({"user_id": "u", "item_id": "a"}, "value"),
        ({"user_id": "u", "item_id": "a", "value": None}, "value"),
        ({"events": [EVENT, {"user_id": "u", "item_id": "a"}]}, "events[1].value"),
        (EVENT | {"value": 5.5}, "value"),
        (EVENT | {"value": 0}, "value"),
        ({"events": [EVENT, EVENT | {"type": "click", "value": 99}, EVENT | {"value": -1e9}]}, "events[2].value"),
        ({"user_id": "u"}, "events"),
    ],
)
async def test_invalid_feedback_names_the_field_and_stores_nothing(
    service: Running, store: redis.Redis, keys: Keys, body: dict[str, Any], field: str
) -> None:
    response = await service.http.post("/v1/feedback", content=json.dumps(body))
    assert response.status_code == 422, response.text
    assert response.json()["error"]["field"] == field
    assert not store.exists(keys.interactions)
    assert not store.exists(keys.user_history("u"))


async def test_without_a_release_no_value_is_out_of_range(settings: Settings, store: redis.Redis, keys: Keys) -> None:
    async with running(settings) as service:
        await _send(service, EVENT | {"value": 99})
    assert _values(store, keys) == [99.0]
    assert len(_stream(store, keys)) == 1
