"""POST /v1/feedback end to end: what it stores, and that the next request of the user sees it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from models.contract.events import EVENT_BYTES, Interaction, unpack_history
from models.contract.keys import Keys
from service.settings import Settings
from tests.service.conftest import Running, running
from tests.service.tiny import ITEMS, Publisher, score_of
from tests.service.tiny_model import SCHEMA

EVENT = {"user_id": "u", "item_id": "a", "value": 3}
START_MS = 1_700_000_000_000


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
        {"user_id": "u", "item_id": 1, "value": 4.5, "timestamp_ms": START_MS + 10, "request_id": "r"},
        {"user_id": "v", "item_id": "2", "type": "click", "value": 99, "timestamp_ms": START_MS + 11},
        {"user_id": "u", "item_id": "3", "value": 1, "timestamp_ms": START_MS + 12},
    ]
    answer = await _send(service, {"request_id": "f", "events": events})
    assert {name: answer[name] for name in ("accepted", "request_id")} == {"accepted": 3, "request_id": "f"}
    single = await _send(service, {"user_id": "v", "item_id": "4", "value": 2})
    assert single["accepted"] == 1
    stored = _stream(store, keys)
    assert stored[0] == Interaction(user_id="u", item_id="1", value=4.5, time_ms=START_MS + 10, request_id="r")
    assert [interaction.item_id for interaction in stored] == ["1", "2", "3", "4"]
    assert [interaction.request_id for interaction in stored] == ["r", "f", "f", None]
    assert abs(stored[3].time_ms - time.time() * 1000) < 600_000
    assert _values(store, keys, "u") == [4.5, 1.0]
    assert _values(store, keys, "v") == [2.0]  # a click is no history type of the tiny schema
    assert service.metric("lorank_interactions_total", type="rating") == 3
    assert service.metric("lorank_interactions_total", type="other") == 1


async def test_a_retry_changes_the_history_once(service: Running, store: redis.Redis, keys: Keys) -> None:
    events = [{"user_id": "u", "item_id": "a", "value": 1 + at % 5, "timestamp_ms": START_MS + at} for at in range(100)]
    for _ in range(2):
        await _send(service, {"events": events})
    assert _values(store, keys) == [float(1 + at % 5) for at in range(100)]


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update=getattr(request, "param", {}))


@pytest.mark.parametrize("settings", [{"history_max_events": 5}], indirect=True)
async def test_the_history_is_trimmed(service: Running, store: redis.Redis, keys: Keys) -> None:
    events = [{"user_id": "u", "item_id": "a", "value": 1 + at / 4, "timestamp_ms": START_MS + at} for at in range(12)]
    await _send(service, {"events": events})
    assert _values(store, keys) == [2.75, 3.0, 3.25, 3.5, 3.75]


@pytest.mark.parametrize("settings", [{"history_max_events": 16}], indirect=True)
async def test_a_history_is_cut_back_when_it_is_an_eighth_too_long(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    lengths = []
    for at in range(22):
        await _send(service, {"user_id": "u", "item_id": "a", "value": 1, "timestamp_ms": START_MS + at})
        lengths.append(store.strlen(keys.user_history("u")) // EVENT_BYTES)
    assert lengths == [*range(1, 19), 16, 17, 18, 16]


@pytest.mark.own_valkey
async def test_an_event_costs_a_full_history_little_more_than_a_short_one(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    """In bytes of the append-only file and in time of the script, over more events than one cut needs."""
    cost = {}
    full = Interaction(user_id="full", item_id="a", value=1, time_ms=START_MS).pack()
    store.set(keys.user_history("full"), full * (10_000 + 10_000 // 8))
    for user in ("short", "full"):
        store.config_resetstat()
        before = store.info("persistence")["aof_current_size"]
        for batch in range(3):
            events = [
                {"user_id": user, "item_id": "a", "value": 2, "timestamp_ms": START_MS + 1000 * batch + at}
                for at in range(1000)
            ]
            await _send(service, {"events": events})
        written = store.info("persistence")["aof_current_size"] - before
        cost[user] = written, store.info("commandstats")["cmdstat_evalsha"]["usec"]
    assert store.strlen(keys.user_history("full")) == (10_000 + 3_000 - 2 * 1251 - 1) * EVENT_BYTES  # cut three times
    assert cost["full"][0] < 3 * cost["short"][0]
    assert cost["full"][1] < 3 * cost["short"][1]


async def test_a_torn_history_is_repaired(service: Running, store: redis.Redis, keys: Keys) -> None:
    await _send(service, {"user_id": "u", "item_id": "a", "value": 1, "timestamp_ms": START_MS + 1})
    store.append(keys.user_history("u"), b"torn")
    assert (await service.rank("u"))["degraded"] == ["no_features"]
    await _send(service, {"user_id": "u", "item_id": "a", "value": 2, "timestamp_ms": START_MS + 2})
    assert _values(store, keys) == [1.0, 2.0]
    assert store.strlen(keys.user_history("u")) == 2 * EVENT_BYTES
    assert (await service.rank("u"))["degraded"] == []


@pytest.mark.own_valkey
async def test_a_restarted_redis_gets_the_script_again(service: Running, store: redis.Redis, keys: Keys) -> None:
    store.script_flush()
    await _send(service, {"events": [{"user_id": "u", "item_id": "a", "value": 3, "timestamp_ms": START_MS + 1}]})
    store.script_flush()
    await _send(service, {"events": [{"user_id": "u", "item_id": "a", "value": 3, "timestamp_ms": START_MS + 2}]})
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
        (EVENT | {"timestamp_ms": 1_790_000_000}, "timestamp_ms"),
        (EVENT | {"timestamp_ms": 0}, "timestamp_ms"),
        (EVENT | {"timestamp_ms": 100_000_000_000_000}, "timestamp_ms"),
        (EVENT | {"user_id": "u\0"}, "user_id"),
        (EVENT | {"item_id": "a\n"}, "item_id"),
        ({"events": [EVENT, EVENT | {"user_id": "é\x7f"}]}, "events[1].user_id"),
        ({"events": [{"user_id": "null", "item_id": "a", "value": 99}]}, "events[0].value"),
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


SHOP = SCHEMA.model_copy(
    update={"history_types": ("purchase", "basket"), "value_min": 0.0, "value_max": 1.0, "liked_above": 0.5}
)


@pytest.fixture
def shop(service: Running) -> Running:
    """The service with a release that reads purchases, as far as feedback asks for it."""
    state = service.app.state.service
    release = replace(state.live.current(), schema=SHOP)
    service.app.state.service = replace(state, live=SimpleNamespace(current=lambda: release))
    return service


async def test_a_purchase_needs_neither_a_type_nor_a_value(shop: Running, store: redis.Redis, keys: Keys) -> None:
    events: list[dict[str, Any]] = [{}, {"type": "basket"}, {"value": 0}, {"value": 0.5, "type": None}, {"value": None}]
    answer = await _send(
        shop,
        {
            "events": [
                {"user_id": "u", "item_id": f"i{at}", "timestamp_ms": START_MS + at} | event
                for at, event in enumerate(events)
            ]
        },
    )
    assert (answer["accepted"], "ignored" in answer) == (5, False)
    stored = [(interaction.type, interaction.value) for interaction in _stream(store, keys)]
    assert stored == [("purchase", 1.0), ("basket", 1.0), ("purchase", 0.0), ("purchase", 0.5), ("purchase", 1.0)]
    assert _values(store, keys) == [1.0, 1.0, 0.0, 0.5, 1.0]
    assert (await _send(shop, {"user_id": "u", "item_id": "a"}))["accepted"] == 1
    response = await shop.http.post("/v1/feedback", json={"user_id": "u", "item_id": "a", "value": 5})
    assert response.json()["error"]["message"] == "the value of a 'purchase' must be 0 to 1"


async def test_a_rating_needs_a_value(service: Running) -> None:
    response = await service.http.post("/v1/feedback", json={"user_id": "u", "item_id": "a"})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["field"] == "value"
    assert error["message"] == "a 'rating' needs a value, 1 to 5: nobody can guess a rating"


async def test_events_without_effect_are_told_and_counted(shop: Running, store: redis.Redis, keys: Keys) -> None:
    events = [
        {"user_id": "u", "item_id": "a", "type": "view"},
        {"user_id": "u", "item_id": "b", "type": "rating", "value": 4},
        {"user_id": "null", "item_id": "a"},
        {"user_id": "u", "item_id": "NaN", "type": "view"},
        {"user_id": " ", "item_id": "a"},
        {"user_id": "u", "item_id": "c"},
    ]
    answer = await _send(shop, {"events": events})
    assert answer["accepted"] == 3
    assert {ignored["reason"]: ignored["count"] for ignored in answer["ignored"]} == {"type": 2, "nobody": 3}
    assert "the release reads 'purchase', 'basket'" in answer["ignored"][0]["message"]
    assert "names nobody (data.nobody)" in answer["ignored"][1]["message"]
    stored = [(interaction.user_id, interaction.item_id, interaction.value) for interaction in _stream(store, keys)]
    assert stored == [("u", "a", 1.0), ("u", "b", 4.0), ("u", "c", 1.0)]
    assert _values(store, keys) == [1.0]
    assert not store.exists(keys.user_history("null"))
    assert shop.metric("lorank_feedback_ignored_total", reason="nobody") == 3
    assert shop.metric("lorank_feedback_ignored_total", reason="type") == 2
    assert shop.metric("lorank_interactions_total", type="other") == 2


async def test_feedback_of_nobody_alone_stores_nothing(service: Running, store: redis.Redis, keys: Keys) -> None:
    answer = await _send(service, EVENT | {"user_id": "undefined"})
    assert (answer["accepted"], answer["ignored"][0]["count"]) == (0, 1)
    assert not store.exists(keys.interactions)


async def test_the_release_says_who_is_nobody(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish(nobody=("0",))
    async with running(settings) as service:
        answer = await _send(service, {"events": [EVENT | {"user_id": 0}, EVENT | {"user_id": "null"}]})
        assert service.app.state.service.status()["release"]["nobody"] == ["0"]
    assert (answer["accepted"], answer["ignored"][0]["count"]) == (1, 1)
    assert [interaction.user_id for interaction in _stream(store, keys)] == ["null"]


async def test_without_a_release_an_event_says_its_value(settings: Settings, store: redis.Redis, keys: Keys) -> None:
    async with running(settings) as service:
        response = await service.http.post("/v1/feedback", json={"user_id": "u", "item_id": "a"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_release")
        assert response.headers["retry-after"] == "1"
        answer = await _send(service, {"user_id": "u", "item_id": "a", "type": "purchase"})
        assert (answer["accepted"], "ignored" in answer) == (1, False)  # a release may come that reads purchases
    assert [interaction.value for interaction in _stream(store, keys)] == [1.0]


@pytest.mark.parametrize(
    ("time_ms", "says"),
    [
        (1_790_000_000, "looks like seconds"),
        (0, "1970"),
        (100_000_000_000_000, "5138"),
        (10**15, "microseconds"),
        (1_790_000_000 * 10**9, "nanoseconds"),
    ],
)
async def test_a_time_in_another_unit_is_told(service: Running, time_ms: int, says: str) -> None:
    response = await service.http.post("/v1/feedback", json=EVENT | {"timestamp_ms": time_ms})
    assert response.status_code == 422
    assert says in response.json()["error"]["message"]
