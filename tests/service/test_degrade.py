"""The ladder, by real failures: a killed Redis, a hanging Redis, a model that fails, records that must not be used."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from models.contract.events import EVENT_DTYPE, Interaction, item_hash, owner_tag
from models.contract.keys import Keys
from models.contract.profile import UserProfile
from models.valkey.embedded import embedded_redis
from service.settings import Settings
from service.telemetry import LastMinute
from tests.service.conftest import Freezer, Running, eventually, running
from tests.service.tiny import ITEMS, Publisher, knowledge, score_of
from tests.service.tiny_model import ITEM_SPACE, PORTRAIT_SPACE, USER_SPACE, model_bytes


async def test_a_killed_redis_costs_the_features_and_comes_back(tmp_path: Path, settings: Settings) -> None:
    with embedded_redis(tmp_path / "own") as url:
        publisher = Publisher(redis.Redis.from_url(url), Keys(settings.served_prefix), settings.artifact_folder)
        publisher.publish()
        async with running(settings.model_copy(update={"redis_url": url})) as service:
            publisher.user_knowledge("u", [[1.0, 1.0, 1.0]])
            whole = await service.rank("u", ["a"])
            assert whole["degraded"] == []
            assert whole["knowledge"] == {"fresh": 3, "stale": 0, "missing": 1}
            publisher.redis.waitaof(1, 0, 10_000)  # until the record is on the disk, too

            os.kill(publisher.redis.info("server")["process_id"], signal.SIGKILL)
            without = await service.rank("u", ["a"])
            assert without["degraded"] == ["no_knowledge", "no_features"]
            assert without["knowledge"] == {"fresh": 2, "stale": 0, "missing": 2}
            assert without["items"][0]["score"] == pytest.approx(score_of(ITEMS[0]), rel=1e-5)

            response = await service.http.post("/v1/feedback", json={"user_id": "u", "item_id": "a", "value": 5})
            assert response.status_code == 503
            assert response.json()["error"]["retry_after_ms"] > 0
            assert (await service.http.get("/readyz")).status_code == 200

            async def noticed() -> bool:
                status = await service.status()
                return bool(not status["redis"]["reachable"] and status["stages"]["features"]["state"] == "degraded")

            await eventually(noticed)
            with embedded_redis(tmp_path / "own"):

                async def recovered() -> bool:
                    return not (await service.rank("u", ["a"]))["degraded"]

                await eventually(recovered)
                publisher.redis.close()
                again = await service.rank("u", ["a"])
                # A connection that broke is told by ``degraded``, a record that was lost by ``knowledge``.
                assert again["degraded"] == []
                assert again["knowledge"] == whole["knowledge"]
                assert again["items"] == whole["items"]


async def test_a_pointer_that_has_vanished_is_said(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    """As after FLUSHALL: the loaded release answers, but what was stored of users is gone."""
    assert (await service.rank("u"))["degraded"] == []
    store.delete(keys.live)

    async def said() -> bool:
        return bool((await service.rank("u"))["degraded"] == ["no_pointer"])

    await eventually(said)
    status = await service.status()
    assert status["redis"]["pointer"] == "vanished"
    assert status["last_minute"]["degraded"]["no_pointer"] >= 1
    assert status["stages"]["features"]["state"] == "degraded"
    assert "answers in the last minute: no_pointer" in status["stages"]["features"]["reason"]
    assert (await service.http.get("/readyz")).status_code == 200
    publisher.publish()

    async def restored() -> bool:
        return not (await service.rank("u"))["degraded"]

    await eventually(restored)
    assert (await service.status())["redis"]["pointer"] == "ok"


def test_the_last_minute_is_sixty_seconds() -> None:
    now = 100.5
    minute = LastMinute(lambda: now)
    minute.note(["no_features"])
    now = 130.0
    minute.note([])
    assert minute.counts() == (2, {"no_features": 1})
    now = 160.2
    assert minute.counts() == (1, {})
    now = 190.0
    assert minute.counts() == (0, {})


@pytest.mark.own_valkey
async def test_a_hanging_redis_leaves_time_to_score(service: Running, publisher: Publisher, freezer: Freezer) -> None:
    publisher.user_knowledge("u", [[1.0, 1.0, 1.0]])
    freezer.freeze()
    answer = await service.rank("u", deadline_ms=500)
    assert answer["degraded"] == ["no_knowledge", "no_features"]
    assert [item["score"] for item in answer["items"] if item["id"] == "a"] == [pytest.approx(score_of(ITEMS[0]))]
    freezer.thaw()
    assert (await service.rank("u"))["degraded"] == []


async def test_no_time_at_all_is_the_prior_order(service: Running) -> None:
    answer = await service.rank("u", ["x", "a", "e", "d"], deadline_ms=0.000001, explain=True, rerank="force")
    assert answer["degraded"] == [
        "no_rerank",
        "rerank_late",
        "no_knowledge",
        "no_features",
        "prior_order",
        "no_explain",
    ]
    assert [item["id"] for item in answer["items"]] == ["e", "d", "x", "a"]  # liked most, liked, unknown, disliked
    assert all(0.0 <= item["score"] <= 1.0 for item in answer["items"])
    assert "explain" not in answer["items"][0]
    for word in answer["degraded"]:
        assert service.metric("lorank_degraded_total", word=word) == 1


async def test_a_failing_model_is_the_prior_order(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish(content=model_bytes(user_rows=1))  # fails for users with known fields, not in the warm-up
    store.set(keys.user_profile("u"), UserProfile(owner="u", features={"gender": "F"}).pack())
    async with running(settings) as service:
        assert (await service.rank("other"))["degraded"] == []
        answer = await service.rank("u", ["a", "e"], explain=True)
        assert answer["degraded"] == ["prior_order", "no_explain"]
        assert [item["id"] for item in answer["items"]] == ["e", "a"]


def _event(user: str, value: float) -> bytes:
    return np.array([(item_hash("a"), 0, owner_tag(user), value)], EVENT_DTYPE).tobytes()


POISONS: list[tuple[str, Any, str]] = [
    ("history", _event("mallory", 5.0), "no_features"),
    ("history", _event("u", float("nan")), "no_features"),
    ("history", _event("u", float("inf")), "no_features"),
    ("history", b"torn", "no_features"),
    ("history", ["a list"], "no_features"),
    ("profile", UserProfile(owner="mallory", features={"gender": "F"}).pack(), "no_features"),
    ("profile", UserProfile(owner="u", features={"age": 10**400}).pack(), "no_features"),
    ("profile", b"not json", "no_features"),
    ("profile", ["a list"], "no_features"),
    ("user_knowledge", knowledge("mallory", USER_SPACE, [[9.0, 9.0, 9.0]]), "no_knowledge"),
    ("user_knowledge", knowledge("u", ITEM_SPACE, [[9.0, 9.0, 9.0]]), "no_knowledge"),
    ("user_knowledge", knowledge("u", USER_SPACE, [[9.0] * 5]), "no_knowledge"),
    ("user_knowledge", knowledge("u", USER_SPACE, [[9.0, 9.0, 9.0]])[:-1], "no_knowledge"),
    ("user_knowledge", ["a list"], "no_knowledge"),
]


@pytest.mark.parametrize(("kind", "poison", "word"), POISONS, ids=range(len(POISONS)))
async def test_poisoned_records_are_refused_counted_and_missing(
    service: Running, store: redis.Redis, keys: Keys, kind: str, poison: Any, word: str
) -> None:
    key = {
        "history": keys.user_history("u"),
        "profile": keys.user_profile("u"),
        "user_knowledge": keys.user_knowledge("u", USER_SPACE.fingerprint),
    }[kind]
    if isinstance(poison, list):
        store.rpush(key, *poison)
    else:
        store.set(key, poison)
    answer = await service.rank("u", ["a"])
    assert answer["degraded"] == [word]
    assert answer["knowledge"] == {"fresh": 2, "stale": 0, "missing": 2}
    assert answer["items"][0]["score"] == pytest.approx(score_of(ITEMS[0]), rel=1e-5)
    assert service.metric("lorank_refused_records_total", kind=kind) == 1


@pytest.mark.parametrize(("damaged", "partitions", "portrait"), [("liber", 0.0, (3.0, 4.0)), ("portrait", 6.0, (0, 0))])
async def test_knowledge_beside_a_refused_record_is_used(
    service: Running,
    store: redis.Redis,
    publisher: Publisher,
    damaged: str,
    partitions: float,
    portrait: tuple[float, float],
) -> None:
    publisher.user_knowledge("u", [[1.0, 2.0, 3.0]])
    publisher.user_knowledge("u", [[3.0, 4.0]], space=PORTRAIT_SPACE)
    space = USER_SPACE if damaged == "liber" else PORTRAIT_SPACE
    store.append(publisher.keys.user_knowledge("u", space.fingerprint), b"damage")
    answer = await service.rank("u", ["a"], explain=True)
    assert answer["degraded"] == ["no_knowledge"]
    assert answer["knowledge"] == {"fresh": 3, "stale": 0, "missing": 1}
    (item,) = answer["items"]
    expected = score_of(ITEMS[0], partitions=partitions, portrait=portrait)
    assert item["score"] == pytest.approx(expected, rel=1e-5)
    assert item["explain"]["score_without_knowledge"] == pytest.approx(score_of(ITEMS[0], knowledge=False), rel=1e-5)


async def test_good_events_beside_a_foreign_one_are_used(service: Running, store: redis.Redis, keys: Keys) -> None:
    mine = Interaction(user_id="u", item_id="a", value=5.0, time_ms=1).pack()
    store.set(keys.user_history("u"), _event("mallory", 1.0) + mine)
    answer = await service.rank("u", ["a"])
    assert answer["degraded"] == ["no_features"]
    assert answer["items"][0]["score"] == pytest.approx(score_of(ITEMS[0], history=[5.0]), rel=1e-5)
