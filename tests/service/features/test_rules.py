"""Rules for feedback: what a key may say of one user, the poisoning that this ends, feedback for what was shown."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from models.contract.events import EVENT_BYTES, Interaction
from models.contract.keys import Keys
from service import served
from service.access import NEW_USERS_PER_MINUTE, USER_EVENTS_PER_MINUTE, Access, ApiKey, KeysFile, Scope
from service.errors import InvalidRequest, RateLimited
from service.features.rules import GIVE_BACK, TAKE, FeedbackRules
from service.ranking.deadline import Deadline
from service.redis import RedisLink, replies_to
from service.redis_cluster import ClusterLink
from service.served import LISTS_AT_MOST, ServedLists, packed
from service.settings import Settings
from tests.servers import Cluster
from tests.service.conftest import Running, eventually, running
from tests.service.tiny import Publisher

START_MS = 1_700_000_000_000
ITEMS = [f"i{number:02}" for number in range(59)]


@contextlib.asynccontextmanager
async def keyed(settings: Settings, tmp_path: Path, **limits: Any) -> AsyncIterator[Running]:
    """A service whose client has a key for rankings and feedback."""
    key, text = ApiKey.new("shop", [Scope.RANK, Scope.FEEDBACK], **limits)
    path = tmp_path / "keys.json"
    path.write_text(KeysFile(keys=(key,)).model_dump_json())
    async with running(settings.model_copy(update={"keys": path})) as service:
        service.http.headers["Authorization"] = f"Bearer {text}"
        yield service


def events(user: str, count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Events of a user, all different."""
    times = range(START_MS + start, START_MS + start + count)
    return [{"user_id": user, "item_id": f"i{at % 59:02}", "value": 1, "timestamp_ms": at} | more for at in times]


async def answer_to(service: Running, given: list[dict[str, Any]]) -> httpx2.Response:
    return await service.http.post("/v1/feedback", json={"events": given})


async def test_sixty_events_would_change_every_score(settings: Settings, publisher: Publisher) -> None:
    """A service without keys takes them: it is open to this machine alone, or its operator has said so."""
    publisher.publish()
    async with running(settings) as service:
        before = (await service.rank("her", ITEMS))["items"]
        assert (await answer_to(service, events("her", 60))).status_code == 200
        assert not [item for item in (await service.rank("her", ITEMS))["items"] if item in before]


async def test_the_poisoning_of_issue_22_is_refused(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """One call of 60 events moved 54 of 59 positions, 11 calls erased a history, 20,000 users were invented at once."""
    publisher.publish()
    real = bytes(range(EVENT_BYTES)) * 100
    store.set(keys.user_history("her"), real)
    async with keyed(settings, tmp_path) as service:
        before = (await service.rank("her", ITEMS))["items"]
        refused = await answer_to(service, events("her", 60))
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid")  # waiting would not help
        assert "user-events-per-minute" in refused.json()["error"]["message"]
        for call in range(11):
            assert (await answer_to(service, events("her", 1000, 1000 * call))).status_code == 422
        assert (await service.rank("her", ITEMS))["items"] == before
        assert store.get(keys.user_history("her")) == real
        assert not store.exists(keys.interactions)

        # What is refused counts for nothing; what is accepted is the most of a minute.
        assert (await answer_to(service, events("her", USER_EVENTS_PER_MINUTE - 1))).status_code == 200
        refused = await answer_to(service, events("her", 2, 500))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert refused.headers["RateLimit-Limit"] == f"{USER_EVENTS_PER_MINUTE};w=60"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert (await answer_to(service, events("her", 1, 500))).status_code == 200
        assert (await answer_to(service, events("her", 1, 501))).status_code == 429
        assert store.strlen(keys.user_history("her")) == (100 + USER_EVENTS_PER_MINUTE) * EVENT_BYTES
        assert 0 < store.ttl(keys.user_event_counts("her")) <= 60
        assert (await answer_to(service, events("her", 200, type="glance"))).status_code == 200  # no ranking reads it

        statuses = []
        for call in range(20):
            invented = [events(f"nobody{call}-{at}", 1)[0] for at in range(1000)]
            statuses.append((await answer_to(service, invented)).status_code)
        assert statuses == [200, *[429] * 19]
        assert NEW_USERS_PER_MINUTE == 1000
        assert len(store.keys(f"{keys.prefix}:*nobody*:history")) == 1000


async def test_events_of_all_users_and_types_are_counted(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """The stream to the jobs drops its oldest events when it is full: those that nothing else limits fill it, too."""
    publisher.publish()
    async with keyed(settings, tmp_path, events_per_minute=10, new_users_per_minute=2) as service:
        assert (await answer_to(service, events("u", 11, type="glance"))).status_code == 422
        assert (await answer_to(service, events("u", 6, type="glance"))).status_code == 200
        refused = await answer_to(service, events("v", 3, type="glance") + events("w", 3))
        assert (refused.status_code, refused.headers["RateLimit-Limit"]) == (429, "10;w=60")
        assert store.xlen(keys.interactions) == 6
        # What is refused for another reason is not counted.
        assert (await answer_to(service, events("n1", 1) + events("n2", 1))).status_code == 200
        assert (await answer_to(service, events("n3", 1) + events("n4", 1))).status_code == 429
        assert (await answer_to(service, events("n1", 2, 9))).status_code == 200
        assert store.xlen(keys.interactions) == 10


async def test_a_key_for_loading_may_say_more(settings: Settings, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish()
    async with keyed(settings, tmp_path, user_events_per_minute=2000) as service:
        assert [(await answer_to(service, events("u", 1000, 1000 * at))).status_code for at in range(3)] == [
            200,
            200,
            429,
        ]


async def test_a_refused_user_costs_the_others_of_the_call_nothing(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    publisher.publish()
    async with keyed(settings, tmp_path, user_events_per_minute=3) as service:
        assert (await answer_to(service, events("loud", 2))).status_code == 200
        for _ in range(3):
            assert (await answer_to(service, [*events("calm", 2), *events("loud", 2, 9)])).status_code == 429
        assert (await answer_to(service, events("calm", 3))).status_code == 200
        assert store.ttl(keys.user_event_counts("loud")) > 0


async def test_a_minute_that_ends_while_a_call_is_refused_gives_nothing(
    link: RedisLink, store: redis.Redis, keys: Keys
) -> None:
    """Neither what is taken back late, nor what was never counted."""
    counts = keys.user_event_counts("u")
    take = ("EVAL", TAKE, 1, counts, "key", 3, 5, 60)
    first, wait = await link.round_trip([take, take], Deadline(5.0))
    assert (first, 0 < wait <= 60_000) == (0, True)
    assert store.hget(counts, "key") == b"3"
    store.delete(counts)
    await link.round_trip([("EVAL", GIVE_BACK, 1, counts, "key", 3)], Deadline(5.0))
    assert not store.exists(counts)
    store.hset(counts, mapping={"key": 1, "another": 7})
    await link.round_trip([("EVAL", GIVE_BACK, 1, counts, "key", 3)], Deadline(5.0))
    assert store.hgetall(counts) == {b"key": b"0", b"another": b"7"}


def only(settings: Settings, **more: Any) -> Settings:
    return settings.model_copy(update={"feedback_served_only": True} | more)


async def ranked(service: Running, store: redis.Redis, key: str, request_id: str, user: str = "u", **more: Any) -> None:
    """A ranking that is answered, and remembered, which happens behind its back."""
    remembered = store.llen(key)
    await service.rank(user, request_id=request_id, **more)
    await eventually(lambda: store.llen(key) > remembered)


def event(request_id: str | None, item: str = "a", user: str = "u") -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "value": 5} | ({} if request_id is None else {"request_id": request_id})


async def check_served_only(service: Running, store: redis.Redis, keys: Keys) -> None:
    """What was shown is taken, and all else refused, with the place of the fault."""
    await ranked(service, store, keys.user_served("u"), "r1", candidates=("a", "b", "c"), top_k=2)
    await ranked(service, store, keys.user_served("v"), "r2", user="v")
    (shown, hidden) = ("c", "a")
    assert (await service.http.post("/v1/feedback", json=event("r1", shown))).status_code == 200
    batch = {"request_id": "r1", "events": [{"user_id": "u", "item_id": shown, "value": 4}]}
    assert (await service.http.post("/v1/feedback", json=batch)).status_code == 200
    history = store.get(keys.user_history("u"))
    for body, field in (
        (event(None, shown), "request_id"),
        (event("r9", shown), "request_id"),
        (event("r2", shown), "request_id"),
        (event("r1", hidden), "item_id"),
        (event("r1", "x"), "item_id"),
        ({"events": [event("r1", shown), event("r2", "a", "null"), event("r1", hidden)]}, "events[2].item_id"),
        ({"events": [event("r1", shown), event("r2", shown)]}, "events[1].request_id"),
    ):
        refused = await service.http.post("/v1/feedback", json=body)
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, field), refused.text
    assert store.get(keys.user_history("u")) == history


async def test_feedback_is_taken_for_what_was_shown_alone(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    async with running(only(settings)) as service:
        await check_served_only(service, store, keys)
        assert 86_000 < store.ttl(keys.user_served("u")) <= 86_400
        for number in range(LISTS_AT_MOST + 5):
            await service.rank("u", request_id=f"n{number}")
        await eventually(lambda: (store.lindex(keys.user_served("u"), 0) or b"")[8:16] == packed("n68", 0, ())[8:])
        assert store.llen(keys.user_served("u")) == LISTS_AT_MOST
        assert (await service.http.post("/v1/feedback", json=event("r1", "c"))).status_code == 422
        assert (await service.http.post("/v1/feedback", json=event("n68", "c"))).status_code == 200


async def test_nothing_is_remembered_unless_it_is_asked_for(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    async with running(settings) as service:
        await service.rank("u")
        await eventually(lambda: store.exists(keys.exposures))
        assert not store.exists(keys.user_served("u"))
        assert (await service.http.post("/v1/feedback", json=event(None))).status_code == 200


async def test_what_was_shown_ends(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a list that Redis still has, because a later one was shown."""
    publisher.publish()
    async with running(only(settings, feedback_served_seconds=60)) as service:
        await ranked(service, store, keys.user_served("u"), "r1")
        later = served.ServedLists
        monkeypatch.setattr("service.features.rules.ServedLists", lambda entries, since: later(entries, since + 61_000))
        assert (await service.http.post("/v1/feedback", json=event("r1"))).status_code == 422


@pytest.mark.own_valkey
async def test_without_redis_feedback_is_503_as_ever_and_rankings_are_answered(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, freezer: Any
) -> None:
    publisher.publish()
    short = only(settings, default_deadline_ms=300.0, max_deadline_ms=300.0, release_poll_seconds=60.0)
    async with running(short) as service:
        await ranked(service, store, keys.user_served("u"), "r1")
        freezer.freeze()
        refused = await service.http.post("/v1/feedback", json=event("r1"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "redis_unavailable")
        assert "no_features" in (await service.rank("u"))["degraded"]
        freezer.thaw()


async def test_in_a_cluster(shared_cluster: Cluster, tmp_path: Path) -> None:
    """Users lie at different nodes; a call about several asks them all."""
    link, keys = ClusterLink(shared_cluster.url, 4), Keys("rules")
    key, _ = ApiKey.new("shop", [Scope.FEEDBACK], user_events_per_minute=3)
    path = tmp_path / "keys.json"
    path.write_text(KeysFile(keys=(key,)).model_dump_json())
    rules = FeedbackRules(link, keys, Access(path, 1.0), 60)
    users = [f"u{at}" for at in range(12)]
    now = int(time.time() * 1000)

    async def check(request_id: str) -> None:
        given = [
            Interaction(user_id=user, item_id="a", type="rating", value=1.0, time_ms=now, request_id=request_id)
            for user in users
        ]
        await rules.check(given, [""] * len(given), ("rating",), key, Deadline(10.0))

    try:
        lists = [("LPUSH", keys.user_served(user), packed("r", now, ("a",))) for user in users]
        await replies_to(link, lists, Deadline(10.0))
        for _ in range(3):
            await check("r")
            with pytest.raises(InvalidRequest, match="names no ranking"):
                await check("x")
        with pytest.raises(RateLimited, match="3 events of one user"):
            await check("r")
    finally:
        await link.close()


def damaged(change: Callable[[bytes], bytes]) -> ServedLists:
    return ServedLists([change(packed("r", 5, ("a", "b")))], 0)


def test_an_entry_that_is_damaged_proves_nothing() -> None:
    assert damaged(lambda entry: entry).showed("r", "b")
    for change in (lambda entry: entry[:-1], lambda entry: b"", lambda entry: entry[:8]):
        assert not damaged(change).has("r")
    assert not ServedLists([packed("r", 5, ("a",))], 6).has("r")
    assert not damaged(lambda entry: entry[:-8]).showed("r", "b")
