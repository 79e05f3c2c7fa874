"""A user who is forgotten is nowhere in Redis, does not come back, and others lose nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from models.contract.events import EVENT_BYTES, Interaction
from models.contract.exposures import Exposure
from models.contract.forgetting import EVERYTHING_MS, Tombstones
from models.contract.keys import Keys
from models.contract.profile import packed_profile
from models.contract.requests import JobRequest, RequestState
from service.errors import Unavailable
from service.forgetting import erasure
from service.ranking.deadline import Deadline
from service.redis import RedisLink
from service.settings import Settings
from tests.servers import Server, free_ports, running_cluster
from tests.service.conftest import Running, erasure_of, eventually, running
from tests.service.forgetting.traces import OTHER, WHO, behave, places_of, texts_in
from tests.service.tiny import Publisher
from tests.service.tiny_model import USER_SPACE


async def test_a_forgotten_user_is_nowhere_and_others_lose_nothing(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    for user in (WHO, OTHER):
        await behave(service, publisher, store, keys, user)
    before = places_of(store, keys, WHO)
    assert {place.partition("}:")[2].partition(":")[0] or place for place in before} == {
        "history", "profile", "texts", "k", "arms", "interactions", "exposures",
    }  # fmt: skip
    of_other = {key: store.dump(key) for key in store.scan_iter(f"{keys.prefix}:{{u:*{OTHER}}}*")}
    assert len(of_other) == 6

    answer = await service.http.delete(f"/v1/users/{WHO}")
    assert answer.status_code == 202
    receipt = answer.json()
    assert receipt["state"] == "waiting"
    assert receipt["user_id"] == WHO
    assert receipt["removed"] == {"history": 2, "profile": 1, "texts": 1, "knowledge": 1, "arms": 2, "interactions": 2,
                                  "exposures": 1}  # fmt: skip
    assert any("next job" in words for words in receipt["remaining"])
    assert places_of(store, keys, WHO) == {f"{{requests}}:request:{receipt['id']}"}
    assert of_other == {key: store.dump(key) for key in store.scan_iter(f"{keys.prefix}:{{u:*{OTHER}}}*")}
    assert len(texts_in(store, keys.interactions)) == 2

    looked_at = (await service.http.get(f"/v1/requests/{receipt['id']}")).json()
    assert looked_at["returned"] == {}
    assert (await service.http.get("/v1/requests")).json()["requests"][0]["id"] == receipt["id"]


async def test_what_comes_back_is_deleted_when_the_receipt_is_looked_at(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    publisher.user_knowledge(WHO, [[0.5, 0.5]])
    old = Interaction(user_id=WHO, item_id="a", value=3.0, time_ms=receipt["asked_ms"] - 1000)
    store.append(keys.user_history(WHO), old.pack())
    store.xadd(keys.interactions, old.to_stream())  # type: ignore[arg-type]
    store.xadd(keys.exposures, {"v": "9", "exposure": json.dumps({"user_id": WHO})})  # which nobody understands
    looked_at = (await service.http.get(f"/v1/requests/{receipt['id']}")).json()
    assert looked_at["returned"] == {"knowledge": 1, "history": 1, "interactions": 1, "exposures": 1}
    assert places_of(store, keys, WHO) == {f"{{requests}}:request:{receipt['id']}"}


async def test_once_the_jobs_are_done_what_is_newer_stays(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    done = JobRequest.model_validate_json(store.get(keys.request(receipt["id"])))  # type: ignore[arg-type]
    store.set(keys.request(done.id), done.changed(RequestState.DONE, remaining=()).model_dump_json())
    await asyncio.sleep(1.1)  # records tell whole seconds
    publisher.user_knowledge(WHO, [[0.5, 0.5]])
    store.set(keys.user_profile(WHO), packed_profile(WHO, {"age": 47}))
    event = {"user_id": WHO, "item_id": "c", "value": 4.0}
    assert (await service.http.post("/v1/feedback", json=event)).json()["accepted"] == 1
    looked_at = (await service.http.get(f"/v1/requests/{receipt['id']}")).json()
    assert (looked_at["state"], looked_at["returned"]) == ("done", {})
    assert len(store.get(keys.user_history(WHO))) == EVENT_BYTES  # type: ignore[arg-type]
    assert store.exists(keys.user_knowledge(WHO, USER_SPACE.fingerprint), keys.user_profile(WHO)) == 2


async def test_older_interactions_do_not_come_back_and_newer_ones_begin_anew(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    before = int(time.time() * 1000)
    await service.http.delete(f"/v1/users/{WHO}")
    events = [
        {"user_id": WHO, "item_id": "a", "value": 4.0, "timestamp_ms": before},
        {"user_id": OTHER, "item_id": "a", "value": 4.0, "timestamp_ms": before},
        {"user_id": WHO, "item_id": "b", "value": 4.0},
    ]
    answer = (await service.http.post("/v1/feedback", json={"events": events})).json()
    assert answer["accepted"] == 2
    assert [(each["reason"], each["count"]) for each in answer["ignored"]] == [("forgotten", 1)]
    assert len(store.get(keys.user_history(WHO))) == EVENT_BYTES  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["a/b", "a/export", "ünï %2F", "{u:x}", "1"])
async def test_ids_of_every_form_can_be_forgotten(service: Running, store: redis.Redis, keys: Keys, user: str) -> None:
    await service.http.post("/v1/feedback", json={"user_id": user, "item_id": "a", "value": 4.0})
    path = f"/v1/users/{quote(user, safe='')}"
    assert len((await service.http.get(f"{path}/export")).json()["stored"]["history"]) == 1
    answer = await service.http.delete(path)
    assert (answer.status_code, answer.json()["user_id"]) == (202, user)
    assert not store.exists(keys.user_history(user))


@pytest.mark.parametrize("path", ["/v1/users/", "/v1/users/a/b/c", "/v1/users/%FF", "/v1/users/%00"])
async def test_what_is_no_user_is_refused(service: Running, path: str) -> None:
    assert (await service.http.delete(path)).status_code in (404, 422)


async def test_a_later_event_survives_the_deletion(link: RedisLink, store: redis.Redis, keys: Keys) -> None:
    erasing, now = erasure_of(link, keys), int(time.time() * 1000)
    events = [Interaction(user_id=WHO, item_id=item, value=3.0, time_ms=now + at) for at, item in ((0, "a"), (1, "b"))]
    store.set(keys.user_history(WHO), b"".join(event.pack() for event in events) + b"torn")
    assert await erasing.sweep(WHO, now) == {"history": 2}
    assert store.get(keys.user_history(WHO)) == events[1].pack()


async def test_a_shared_unit_keeps_its_arms(service: Running, store: redis.Redis, keys: Keys) -> None:
    for user in (WHO, OTHER):
        await service.rank(user, unit="kitchen-tablet")
    await eventually(lambda: len(texts_in(store, keys.exposures)) == 2)
    store.hset(keys.unit_arms("kitchen-tablet"), "layer__1", "control")
    await service.http.delete(f"/v1/users/{WHO}")
    assert store.exists(keys.unit_arms("kitchen-tablet"))


async def test_long_streams_are_read_in_pages(
    link: RedisLink, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.forgetting.traces.ENTRIES_AT_ONCE", 7)
    erasing, now = erasure_of(link, keys), int(time.time() * 1000)
    for number in range(50):
        user = WHO if number % 3 else OTHER
        event = Interaction(user_id=user, item_id="a", value=3.0, time_ms=now - number)
        store.xadd(keys.interactions, event.to_stream())  # type: ignore[arg-type]
    assert await erasing.sweep(WHO, now) == {"interactions": 33}
    assert len(texts_in(store, keys.interactions)) == 17


async def test_without_redis_nobody_is_told_that_a_user_is_gone(settings: Settings, publisher: Publisher) -> None:
    publisher.publish()
    async with running(settings) as service:
        link: Any = service.app.state.service.erasure.traces.link
        await link.close()
        answers = [
            await service.http.delete(f"/v1/users/{WHO}"), await service.http.get(f"/v1/users/{WHO}/export"),
            await service.http.get("/v1/requests"), await service.http.get("/v1/reports"),
        ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [503] * 4


async def test_a_writer_without_end_is_no_success(link: RedisLink, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    erasing = erasure_of(link, keys)

    async def sweep(self: object, user_id: str, until_ms: int, *, timed: bool = False) -> Counter[str]:
        return Counter(history=1)

    monkeypatch.setattr(erasure.Erasure, "sweep", sweep)
    with pytest.raises(Unavailable, match="ask again"):
        await erasing.forget(WHO, "")


async def test_on_a_cluster(tmp_path: Path, keys: Keys) -> None:
    from service.redis_cluster import open_port

    with running_cluster(tmp_path) as cluster:
        port = open_port(cluster.url, 4, "primary")
        try:
            erasing, now = erasure_of(port, keys), int(time.time() * 1000)
            for user in (WHO, OTHER):
                event = Interaction(user_id=user, item_id="a", value=3.0, time_ms=now - 5)
                fields = [cell for pair in event.to_stream().items() for cell in pair]
                write: list[Any] = [
                    ("APPEND", keys.user_history(user), event.pack()), ("XADD", keys.interactions, "*", *fields),
                    ("SET", keys.user_profile(user), packed_profile(user, {"age": 1})),
                ]  # fmt: skip
                await erasing.write(write, Deadline(5.0), {user}, Tombstones())
            receipt = await erasing.forget(WHO, "")
            assert receipt.removed == {"history": 1, "interactions": 1, "profile": 1}
            assert (await erasing.receipt(receipt.id))[1] == {}
            assert len((await erasing.export(OTHER, None))["stored"]["interactions"]) == 1
        finally:
            await port.close()


async def test_histories_and_streams_end(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    store.xadd(keys.exposures, {"v": "2"}, id="1000-0")
    store.xadd(keys.interactions, {"v": "1"}, id="1000-0")
    async with running(settings.model_copy(update={"history_days": 30.0, "stream_days": 30.0})) as service:
        for item in ("a", "b"):
            await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": item, "value": 4.0})
        assert 29 * 86_400 < store.ttl(keys.user_history(WHO)) <= 30 * 86_400
        await eventually(lambda: not store.xlen(keys.exposures) and store.xlen(keys.interactions) == 2)
        store.persist(keys.user_history(WHO))
    async with running(settings) as service:
        await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "c", "value": 4.0})
        assert store.ttl(keys.user_history(WHO)) == -1


async def test_a_deletion_is_on_the_disk_when_it_is_answered(keys: Keys, tmp_path: Path) -> None:
    server = Server(tmp_path / "server", free_ports(1)[0], ["--appendonly", "yes"])
    link = RedisLink(f"redis://127.0.0.1:{server.port}", 4)
    durable = replace(erasure_of(link, keys), fsyncs=1)
    try:
        assert (await durable.forget(WHO, "")).state is RequestState.WAITING
        with pytest.raises(Unavailable, match="not on as many disks"):
            await replace(durable, fsyncs=2).forget(WHO, "")
    finally:
        await link.close()
        server.close()


@pytest.mark.parametrize("opts_out", [False, True])
async def test_events_of_clocks_that_run_ahead_go_too(
    service: Running, store: redis.Redis, keys: Keys, opts_out: bool
) -> None:
    ahead = {"user_id": WHO, "item_id": "a", "value": 4.0, "timestamp_ms": int(time.time() * 1000) + 8 * 3_600_000}
    assert (await service.http.post("/v1/feedback", json=ahead)).json()["accepted"] == 1
    path = f"/v1/users/{WHO}"
    answer = await (service.http.put(f"{path}/opt-out") if opts_out else service.http.delete(path))
    assert answer.json()["removed"] == {"history": 1, "interactions": 1}
    assert places_of(store, keys, WHO) == {f"{{requests}}:request:{answer.json()['id']}"}


async def test_an_entry_of_another_version_is_of_whom_it_names(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    """User 50 and item 50 are two: neither is the other's, to show or to delete."""
    shown = {"user_id": "mallory", "unit": "mallory", "items": ["50"]}
    own = {"user_id": "50", "unit": "50", "items": ["a"]}
    for document in (shown, own):
        store.xadd(keys.exposures, {"v": "3", "exposure": json.dumps(document)})
    store.xadd(keys.exposures, {"v": "3", "exposure": '"50" and then damaged'})
    exported = (await service.http.get("/v1/users/50/export")).json()["stored"]["exposures"]
    assert [json.loads(entry["fields"]["exposure"]) for entry in exported] == [own]
    assert (await service.http.delete("/v1/users/50")).json()["removed"] == {"exposures": 2}
    assert [b"mallory" in text for text in texts_in(store, keys.exposures)] == [True]


@pytest.mark.parametrize("damage", ["[" * 100_000, '{"x":' * 100_000, '{"user_id": "\\ud800"}'])
async def test_what_no_parser_takes_is_shown_and_deleted(
    service: Running, store: redis.Redis, keys: Keys, damage: str
) -> None:
    shown = {"user_id": WHO, "unit": "tablet", "items": []}
    store.xadd(keys.exposures, {"v": "2", "exposure": json.dumps(shown)})
    for stream in (keys.exposures, keys.interactions):
        store.xadd(stream, {"v": "9", "exposure": f'"{WHO}" {damage}', "event": damage})
    await service.rank(WHO, unit="tablet")  # so that the stream is searched for others with this unit
    await eventually(lambda: store.xlen(keys.exposures) == 3)
    store.xadd(keys.exposures, {"v": "2", "exposure": f'{{"user_id":"{OTHER}","unit":"x","y":{damage}'})
    store.set(keys.user_export(WHO), damage)
    exported = await service.http.get(f"/v1/users/{WHO}/export")
    assert exported.status_code == 200
    assert exported.json()["work_folder"] == {"damaged": damage.encode().hex()}
    answer = await service.http.delete(f"/v1/users/{WHO}")
    assert (answer.status_code, answer.json()["removed"]["export"]) == (202, 1)
    assert not store.exists(keys.user_export(WHO))
    assert not any(f'"{WHO}" '.encode() in text for text in texts_in(store, keys.exposures))
    assert any(OTHER.encode() in text for text in texts_in(store, keys.exposures))


async def test_many_units_cost_one_reading(link: RedisLink, store: redis.Redis, keys: Keys) -> None:
    erasing, trips = erasure_of(link, keys), []
    for number in range(40):
        exposure = Exposure(
            request_id=f"r{number}", user_id=WHO, unit=f"session-{number}", time_ms=1, release="r1", arms=(),
            knowledge=True, degraded=(), latency_ms=1.0, candidates=1, items=("a",), scores=(0.5,), history_events=0,
            history_digest="00",
        )  # fmt: skip
        store.xadd(keys.exposures, exposure.to_stream())  # type: ignore[arg-type]
    whole = link.round_trip

    async def counted(commands: Any, deadline: Deadline, may_be_stale: bool = False) -> list[Any]:
        trips.append(commands)
        return await whole(commands, deadline, may_be_stale)

    link.round_trip = counted  # type: ignore[method-assign]
    assert await erasing.traces.find(WHO, EVERYTHING_MS)
    assert sum(command[0] == "XRANGE" for commands in trips for command in commands) == 3


async def test_keys_of_another_type_are_deleted_too(service: Running, store: redis.Redis, keys: Keys) -> None:
    for key in (keys.user_history(WHO), keys.user_profile(WHO)):
        store.lpush(key, "damaged")
    store.set(keys.unit_arms(WHO), "damaged")
    stored = (await service.http.get(f"/v1/users/{WHO}/export")).json()["stored"]
    assert sorted(stored["unreadable"]) == ["arms", "history", "profile"]
    answer = await service.http.delete(f"/v1/users/{WHO}")
    assert answer.json()["removed"] == {"history": 1, "profile": 1, "arms": 1}
    assert not store.exists(keys.user_history(WHO), keys.user_profile(WHO), keys.unit_arms(WHO))


async def test_a_damaged_list_of_releases_stops_no_deletion(service: Running, store: redis.Redis, keys: Keys) -> None:
    assert (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 4.0})).is_success
    for damage in ("{damaged", '{"a": 1}', "[1]"):
        store.set(keys.releases, damage)
        answer = await service.http.delete(f"/v1/users/{WHO}")
        assert answer.status_code == 202
    names: Any = store.zrange(keys.open_requests, 0, -1)
    assert places_of(store, keys, WHO) <= {f"{{requests}}:request:{name.decode()}" for name in names}
