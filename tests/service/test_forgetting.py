"""A user who is forgotten is nowhere in Redis, does not come back, and others lose nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx2
import pytest
import redis

from models.contract.events import EVENT_BYTES, Interaction
from models.contract.exposures import Exposure
from models.contract.forgetting import EVERYTHING_MS, REVISION, SALT, Tombstone, Tombstones, user_digest
from models.contract.keys import Keys
from models.contract.profile import packed_profile
from models.contract.requests import JobRequest, Report, ReportKind, RequestKind, RequestState, UserExport
from offline.child import child_python
from offline.publish.connection import Store
from offline.publish.requests import change_request
from service.errors import RedisUnavailable, Unavailable
from service.forgetting import erasure
from service.ranking.deadline import Deadline
from service.redis import RedisLink
from service.settings import Settings
from tests.conftest import ROOT
from tests.servers import Server, free_ports, running_cluster
from tests.service.conftest import Running, erasure_of, eventually, running
from tests.service.tiny import Publisher
from tests.service.tiny_model import USER_SPACE

BODY = {"user_id": "frida-kahlo", "candidates": [{"id": "a"}, {"id": "e"}]}
WHO, OTHER = "frida-kahlo", "frida-kahlo-2"


async def behave(service: Running, publisher: Publisher, store: redis.Redis, keys: Keys, user: str) -> None:
    """Everything that a service and its jobs store of a user in Redis."""
    store.set(keys.user_profile(user), packed_profile(user, {"age": 47}))
    store.set(keys.user_texts(user), json.dumps({"v": 1, "owner": user, "made_ms": 1, "texts": []}))
    publisher.user_knowledge(user, [[0.5, 0.5]])
    store.hset(keys.unit_arms(user), "layer__1", "treatment")
    events = [{"user_id": user, "item_id": item, "value": 4.0} for item in ("a", "b")]
    assert (await service.http.post("/v1/feedback", json={"events": events})).status_code == 200
    await service.rank(user, unit=f"tablet-of-{user}")
    store.hset(keys.unit_arms(f"tablet-of-{user}"), "layer__1", "control")
    await eventually(lambda: any(user.encode() in exposure for exposure in texts_in(store, keys.exposures)))


def texts_in(store: redis.Redis, stream: str) -> list[bytes]:
    """The entries of a stream."""
    entries: Any = store.xrange(stream)
    return [b" ".join(fields.values()) for _, fields in entries]


_READ: dict[str, Callable[[redis.Redis, Any], Any]] = {
    "string": redis.Redis.get,
    "hash": redis.Redis.hgetall,
    "stream": redis.Redis.xrange,
    "set": redis.Redis.smembers,
    "zset": lambda store, key: store.zrange(key, 0, -1),
}


def places_of(store: redis.Redis, keys: Keys, user: str) -> set[str]:
    """Redis keys below the prefix that have a user's id, or its owner tag, in their name or value."""
    places, needle = set(), user.encode()
    for key in store.scan_iter(f"{keys.prefix}:*"):
        value = repr(_READ[str(store.type(key), "ascii")](store, key)).encode()  # type: ignore[arg-type]
        bare = (key + b" " + value).replace(OTHER.encode(), b"") if user == WHO else key + b" " + value
        if needle in bare:
            places.add(key.decode().removeprefix(f"{keys.prefix}:"))
    return places


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
    assert places_of(store, keys, WHO) == {f"request:{receipt['id']}"}
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
    assert places_of(store, keys, WHO) == {f"request:{receipt['id']}"}


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


async def test_who_opted_out_is_ranked_as_somebody_unknown_and_not_remembered(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    unknown = (await service.rank("nobody-knows-me"))["items"]
    await behave(service, publisher, store, keys, WHO)
    assert (await service.rank(WHO))["items"] != unknown
    assert (await service.http.put(f"/v1/users/{WHO}/opt-out")).status_code == 202
    publisher.user_knowledge(WHO, [[0.5, 0.5]])  # as a job would that does not know yet
    assert (await service.rank(WHO))["items"] == unknown
    answer = (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 5.0})).json()
    assert (answer["accepted"], answer["ignored"][0]["reason"]) == (0, "forgotten")
    await service.rank(OTHER)
    await eventually(lambda: any(OTHER.encode() in text for text in texts_in(store, keys.exposures)))
    assert not any(f'"{WHO}"'.encode() in text for text in texts_in(store, keys.exposures))
    assert (await service.http.get(f"/v1/users/{WHO}/export")).json()["tombstone"]["opted_out"] is True

    # DELETE is no way to be remembered again; opting in is.
    await service.http.delete(f"/v1/users/{WHO}")
    assert (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 5.0})).json()[
        "accepted"
    ] == 0
    assert (await service.http.put(f"/v1/users/{WHO}/opt-in")).json() == {"user_id": WHO, "opted_out": False}
    await asyncio.sleep(0.01)
    assert (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 5.0})).json()[
        "accepted"
    ] == 1


async def test_the_export_is_all_that_is_stored_and_readable(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    for user in (WHO, OTHER):
        await behave(service, publisher, store, keys, user)
    answer = await service.http.get(f"/v1/users/{WHO}/export")
    stored = answer.json()["stored"]
    assert [event["item_id"] for event in stored["history"]] == ["a", "b"]
    assert stored["profile"] == {"age": 47}
    assert stored["knowledge"][USER_SPACE.fingerprint]["vectors"] == [[0.5, 0.5]]
    assert [event["item_id"] for event in stored["interactions"]] == ["a", "b"]
    assert stored["exposures"][0]["unit"] == f"tablet-of-{WHO}"
    assert sorted(arms["layer__1"] for arms in stored["arms"].values()) == ["control", "treatment"]
    assert OTHER not in answer.text
    assert answer.json()["work_folder"] is None
    assert "export-user" in answer.json()["elsewhere"][0]
    nobody = (await service.http.get("/v1/users/never-seen/export")).json()
    assert nobody["stored"] == {"history": [], "profile": None, "knowledge": {}, "arms": {}, "texts": None,
                                "interactions": [], "exposures": [], "served_lists": 0}  # fmt: skip


async def test_what_a_job_told_is_in_the_export_until_the_user_is_forgotten(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    asked = await service.http.post(f"/v1/users/{WHO}/export")
    assert asked.status_code == 202
    assert (asked.json()["kind"], asked.json()["user_id"], asked.json()["state"]) == ("export", WHO, "waiting")
    answer: Any = store.get(keys.request(asked.json()["id"]))
    assert JobRequest.model_validate_json(answer).kind is RequestKind.EXPORT
    exports = {user: UserExport(owner=user, made_ms=5, configuration="c", stored={"answers": [{"text": f"of {user}"}]})
            for user in (WHO, OTHER)}  # fmt: skip
    for user, export in exports.items():
        store.set(keys.user_export(user), export.pack())
    document = (await service.http.get(f"/v1/users/{WHO}/export")).json()
    assert UserExport.model_validate(document["work_folder"]) == exports[WHO]
    assert "export" not in document["stored"]

    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    assert receipt["removed"]["export"] == 1
    assert not store.exists(keys.user_export(WHO))
    assert store.get(keys.user_export(OTHER)) == exports[OTHER].pack()
    assert (await service.http.get(f"/v1/users/{WHO}/export")).json()["work_folder"] is None


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


@pytest.mark.parametrize("knows", [False, True])
async def test_a_write_that_was_decided_before_the_tombstone_is_deleted(
    link: RedisLink, store: redis.Redis, keys: Keys, knows: bool
) -> None:
    forgetting, writing = erasure_of(link, keys), erasure_of(link, keys)
    now = int(time.time() * 1000)
    judged = writing.tombstones.current
    await forgetting.tombstones.write(WHO, now)
    if knows:  # by its watch, between the decision and the write
        await writing.tombstones.refresh()
    assert writing.tombstones.current.forbids(WHO, 0) is knows
    event = Interaction(user_id=WHO, item_id="a", value=3.0, time_ms=now)
    append = ("APPEND", keys.user_history(WHO), event.pack())
    await writing.write([append], Deadline(5.0), {WHO}, judged)
    assert not store.exists(keys.user_history(WHO))
    assert writing.tombstones.current.forbids(WHO, event.time_ms)


async def forgotten_between(
    link: RedisLink, keys: Keys, monkeypatch: pytest.MonkeyPatch, on: Callable[[str], Any], seconds: float
) -> erasure.Erasure:
    """Who wrote something of a user after the tombstone, which it has not read yet. ``on`` is called with the name of
    each command that the writer sends from then on, and may be awaited."""
    forgetting, writing = erasure_of(link, keys), erasure_of(link, keys)
    judged, now, whole = writing.tombstones.current, int(time.time() * 1000), link.round_trip
    await forgetting.tombstones.write(WHO, now)

    async def round_trip(commands: Any, deadline: Deadline, may_be_stale: bool = False) -> list[Any]:
        await on(commands[0][0])
        return await whole(commands, deadline, may_be_stale)

    monkeypatch.setattr(link, "round_trip", round_trip)
    event = Interaction(user_id=WHO, item_id="a", value=3.0, time_ms=now)
    append = [("APPEND", keys.user_history(user), event.pack()) for user in (WHO, OTHER)]
    await writing.write(append, Deadline(seconds), {WHO, OTHER}, judged)
    return writing


async def test_a_write_waits_for_tombstones_no_longer_than_it_may_and_is_looked_at_then(
    link: RedisLink, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = asyncio.Event()

    async def on(command: str) -> None:
        if command == "EVAL":
            await read.wait()

    writing = await forgotten_between(link, keys, monkeypatch, on, 0.05)
    assert store.exists(keys.user_history(WHO))
    event = Interaction(user_id=WHO, item_id="b", value=3.0, time_ms=1)
    append = ("APPEND", keys.user_history(WHO), event.pack())  # beside the reading, which may have been before it
    await writing.write([append], Deadline(0.05), {WHO}, Tombstones())
    assert writing.status()["unlooked"] == 1
    read.set()
    await writing.close()
    assert not store.exists(keys.user_history(WHO))
    assert store.exists(keys.user_history(OTHER))
    assert writing.status()["unlooked"] == 0


async def test_what_could_not_be_looked_at_is_looked_at_later(
    link: RedisLink, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [True]

    async def on(command: str) -> None:
        if failing[0] and command in ("EVAL", "HGETALL"):
            raise RedisUnavailable("no answer")

    writing = await forgotten_between(link, keys, monkeypatch, on, 10.0)
    assert store.exists(keys.user_history(WHO))
    await writing.close()
    assert "of 2 users" in caplog.messages[-1]
    watch = asyncio.create_task(writing.watch())
    await eventually(lambda: "no answer" in (writing.status()["error"] or ""))
    assert store.exists(keys.user_history(WHO))
    failing[0] = False
    await eventually(lambda: not store.exists(keys.user_history(WHO)))
    await eventually(lambda: writing.status()["unlooked"] == 0)
    watch.cancel()
    await asyncio.wait({watch})
    assert store.exists(keys.user_history(OTHER))


async def test_a_write_whose_reply_is_lost_is_looked_at_too(
    link: RedisLink, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetting, writing = erasure_of(link, keys), erasure_of(link, keys)
    judged, now, whole = writing.tombstones.current, int(time.time() * 1000), link.round_trip
    await forgetting.tombstones.write(WHO, now)

    async def round_trip(commands: Any, deadline: Deadline, may_be_stale: bool = False) -> list[Any]:
        replies = await whole(commands, deadline, may_be_stale)
        if commands[0][0] == "APPEND":
            raise RedisUnavailable("timed out")
        return replies

    monkeypatch.setattr(link, "round_trip", round_trip)
    event = Interaction(user_id=WHO, item_id="a", value=3.0, time_ms=now)
    with pytest.raises(RedisUnavailable):
        await writing.write([("APPEND", keys.user_history(WHO), event.pack())], Deadline(5.0), {WHO}, judged)
    assert store.exists(keys.user_history(WHO))
    await writing.close()
    assert not store.exists(keys.user_history(WHO))


async def test_nothing_is_written_that_nobody_could_look_at(
    link: RedisLink, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.forgetting.erasure.UNLOOKED_AT_MOST", 2)

    async def on(command: str) -> None:
        if command in ("EVAL", "HGETALL"):
            raise RedisUnavailable("no answer")

    writing = await forgotten_between(link, keys, monkeypatch, on, 10.0)
    with pytest.raises(RedisUnavailable, match="too much is to be looked at"):
        await writing.write([("SET", f"{keys.prefix}:x", "y")], Deadline(5.0), {"u"}, Tombstones())
    assert not store.exists(f"{keys.prefix}:x")


@pytest.mark.parametrize("document", ["damaged", '{"v":2,"forgotten_until":7}'])
async def test_a_worker_that_starts_beside_a_damaged_tombstone_remembers_nobody_who_opted_out(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, link: RedisLink, document: str
) -> None:
    publisher.publish()
    earlier = erasure_of(link, keys).tombstones
    for user in (WHO, OTHER):
        await earlier.write(user, 1, opted_out=True)
    store.hset(keys.tombstones, user_digest(earlier.current.salt, WHO), document)
    async with running(settings) as service:
        for user in (WHO, OTHER, "new"):
            event = {"user_id": user, "item_id": "a", "value": 4.0}
            accepted = (await service.http.post("/v1/feedback", json=event)).json()["accepted"]
            assert accepted == (user == "new"), user
            await service.rank(user)
        await eventually(lambda: any(b'"new"' in text for text in texts_in(store, keys.exposures)))
        for user in (WHO, OTHER):
            assert not any(f'"{user}"'.encode() in text for text in texts_in(store, keys.exposures))
            assert not store.exists(keys.user_history(user))
        forgetting = service.app.state.service.status()["forgetting"]
        assert (forgetting["tombstones"], forgetting["opted_out"], forgetting["not_understood"]) == (2, 2, 1)
        assert forgetting["error"].startswith("1 not understood")
        assert (await service.http.delete(f"/v1/users/{WHO}")).status_code == 202
        assert (await service.http.put(f"/v1/users/{WHO}/opt-in")).status_code == 200
        assert service.app.state.service.status()["forgetting"]["error"] is None


async def test_without_a_salt_that_is_whole_nothing_is_stored_of_anybody(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    store.hset(keys.tombstones, mapping={SALT: "damaged", REVISION: 7})
    async with running(settings) as service:
        refused = await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 4.0})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "redis_unavailable")
        await service.rank(WHO)
        status = service.app.state.service.status
        await eventually(lambda: status()["stages"]["exposures"]["state"] == "degraded")
        assert "nobody can tell" in status()["stages"]["exposures"]["reason"]
        assert "damaged" in status()["forgetting"]["error"]
        assert (await service.http.delete(f"/v1/users/{WHO}")).status_code == 503
        assert not store.exists(keys.user_history(WHO), keys.interactions, keys.exposures)
        store.delete(keys.tombstones)


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


async def test_requests_and_reports(service: Running, store: redis.Redis, keys: Keys) -> None:
    asked = await service.http.post("/v1/requests", json={"kind": "dry_run"})
    assert (asked.status_code, asked.json()["state"]) == (202, "waiting")
    closed = await service.http.post("/v1/requests", json={"kind": "close_partition", "user_id": 7})
    assert closed.json()["user_id"] == "7"
    wrongs: list[Any] = [
        {"kind": "forget"},
        {"kind": "export", "user_id": "u"},
        {"kind": "dry_run", "user_id": "u"},
        {"kind": "close_partition"},
        {},
        [],
    ]
    for wrong in wrongs:
        assert (await service.http.post("/v1/requests", json=wrong)).status_code == 422
    listed = (await service.http.get("/v1/requests")).json()["requests"]
    assert [each["id"] for each in listed] == [closed.json()["id"], asked.json()["id"]]
    store.delete(keys.request(asked.json()["id"]))  # as if it had ended
    assert len((await service.http.get("/v1/requests")).json()["requests"]) == 1
    assert store.zcard(keys.requests) == 1
    assert (await service.http.get(f"/v1/requests/{asked.json()['id']}")).status_code == 404

    report = Report(name="run-1", kind=ReportKind.RUN, made_ms=1, body={"cost": 0.5})
    store.set(keys.report("run-1"), report.pack())
    store.zadd(keys.reports, {"run-1": 1})
    assert (await service.http.get("/v1/reports")).json()["reports"] == [{"name": "run-1", "kind": "run", "made_ms": 1}]
    assert (await service.http.get("/v1/reports/run-1")).json()["body"] == {"cost": 0.5}
    assert (await service.http.get("/v1/reports/run-2")).status_code == 404


async def test_too_many_open_requests_are_refused(
    service: Running, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are done or ended make room, the oldest first; open ones never leave the list."""
    monkeypatch.setattr("service.forgetting.requests.MOST_REQUESTS", 3)

    async def status(user: str) -> int:
        return (await service.http.post(f"/v1/users/{user}/export")).status_code

    def names() -> list[bytes]:
        listed: Any = store.zrange(keys.requests, 0, -1)
        return list(listed)

    assert [await status(f"u{at}") for at in range(4)] == [202, 202, 202, 503]
    first, second, third = names()
    assert (await service.http.delete(f"/v1/users/{WHO}")).status_code == 202  # never refused for that
    assert len(names()) == 4
    receipt = names()[3].decode()
    done(store, keys, receipt)
    assert await status("u4") == 503  # three are open still
    store.delete(keys.request(second.decode()))
    assert await status("u4") == 202
    assert names()[:2] == [first, third]
    assert not {second.decode(), receipt} & {name.decode() for name in names()}
    assert (await service.http.get(f"/v1/requests/{receipt}")).json()["state"] == "done"
    done(store, keys, first.decode())
    assert await status("u5") == 202
    assert (await service.http.get(f"/v1/requests/{first.decode()}")).status_code == 404
    assert await status("u6") == 503


def done(store: redis.Redis, keys: Keys, name: str) -> None:
    """A job carries a request out."""
    request = JobRequest.model_validate_json(store.get(keys.request(name)))  # type: ignore[arg-type]
    store.set(keys.request(name), request.changed(RequestState.DONE).model_dump_json())


async def test_the_same_is_asked_for_once_at_a_time(
    service: Running, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a job does for a request takes it time, whoever asks and how often."""
    monkeypatch.setattr("service.forgetting.requests.CLOSE_AT_MOST", 2)

    async def asked(kind: str, **more: Any) -> Any:
        answer = await service.http.post("/v1/requests", json={"kind": kind} | more)
        assert answer.status_code == 202, answer.text
        return answer.json()

    first = await asked("dry_run")
    assert await asked("dry_run") == first
    done(store, keys, first["id"])
    second = await asked("dry_run")
    assert second["id"] != first["id"]
    store.delete(keys.request(second["id"]))  # as if it had ended
    assert (await asked("dry_run"))["id"] not in (first["id"], second["id"])
    assert store.zcard(keys.open_requests("dry_run")) == 1

    closing = await asked("close_partition", user_id="u1")
    assert await asked("close_partition", user_id="u1") == closing
    await asked("close_partition", user_id="u2")
    refused = await service.http.post("/v1/requests", json={"kind": "close_partition", "user_id": "u3"})
    assert (refused.status_code, "run a job" in refused.json()["error"]["message"]) == (503, True)
    of_another = JobRequest.new(RequestKind.CLOSE_PARTITION, "u3", "another (00000000)")
    assert await service.app.state.service.erasure.requests.ask(of_another) == of_another
    done(store, keys, closing["id"])
    assert (await asked("close_partition", user_id="u1"))["id"] != closing["id"]


async def test_no_other_request_names_a_user_who_is_forgotten(
    service: Running, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.forgetting.requests.READ_AT_ONCE", 2)
    store.zadd(keys.requests, {"ended": 1})
    store.set(keys.request("later"), '{"v": 2}')
    store.zadd(keys.requests, {"later": 2})
    for user in (WHO, OTHER):
        await service.http.post(f"/v1/users/{user}/export")
        await service.http.post("/v1/requests", json={"kind": "close_partition", "user_id": user})
    former = (await service.http.delete(f"/v1/users/{WHO}")).json()
    assert former["removed"] == {"requests": 2}
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    assert places_of(store, keys, WHO) == {f"request:{each['id']}" for each in (former, receipt)}
    listed = (await service.http.get("/v1/requests")).json()["requests"]
    assert [each["user_id"] for each in listed] == [WHO, WHO, OTHER, OTHER]


def test_tombstones_tell_digests_and_times_alone(store: redis.Redis) -> None:
    digest = user_digest("00" * 16, WHO)
    tombstone = Tombstone(forgotten_ms=5)
    fields = {SALT.encode(): b"00" * 16, REVISION.encode(): b"3", digest.encode(): tombstone.model_dump_json().encode()}
    tombstones = Tombstones.parse(fields.items())
    assert tombstones.revision == 3
    assert tombstones.forbids(WHO, 5)
    assert not tombstones.forbids(WHO, 6)
    assert not tombstones.forbids(OTHER, 5)
    assert tombstones.among([WHO, OTHER]) == {WHO: tombstone}
    assert user_digest("01" * 16, WHO) != digest
    with pytest.raises(ValueError, match="not understood"):
        Tombstones.parse({b"x": b"{}"}.items())


def test_a_report_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of 1,000,000 at most"):
        Report(name="run-1", kind=ReportKind.RUN, made_ms=1, body={"x": "y" * 1_000_000}).pack()


def test_requests_end() -> None:
    request = JobRequest.new(RequestKind.DRY_RUN)
    done = request.changed(RequestState.DONE)
    assert request.is_open
    assert not done.is_open
    assert done.ends_at < request.ends_at


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


async def test_no_worker_writes_an_old_record_back(
    environment: dict[str, str], valkey: str, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    """Two workers whose queues are full of the user, and who go on being asked about the user meanwhile."""
    publisher.publish()
    given = environment | {"LORANK_WORKERS": "2", "LORANK_REDIS_URL": valkey, "LORANK_KEY_PREFIX": keys.prefix}
    url, answers, stop = f"http://127.0.0.1:{environment['LORANK_PORT']}", Counter[str](), asyncio.Event()

    async def ask() -> None:
        """New connections, so that both workers are asked."""
        while not stop.is_set():
            async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
                old = {"user_id": WHO, "item_id": "a", "value": 4.0, "timestamp_ms": int(time.time() * 1000) - 2000}
                for path, body in (("/v1/rank", BODY), ("/v1/feedback", old)):
                    answers[f"{path} {(await http.post(path, json=body)).status_code}"] += 1

    async def ready() -> bool:
        try:
            async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
                return (await http.get("/readyz")).status_code == 200
        except httpx2.TransportError:
            return False

    with subprocess.Popen(child_python("-m", "service"), cwd=ROOT, env=given) as process:  # noqa: ASYNC220
        try:
            await eventually(ready, seconds=60)
            tasks = [asyncio.create_task(ask()) for _ in range(4)]
            await eventually(lambda: answers["/v1/rank 200"] > 20 and answers["/v1/feedback 200"] > 20, seconds=60)
            async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
                receipt = (await http.delete(f"/v1/users/{WHO}")).json()
                await asyncio.sleep(0.5)
                stop.set()
                await asyncio.gather(*tasks)
                looked_at = (await http.get(f"/v1/requests/{receipt['id']}")).json()
        finally:
            process.terminate()
            process.wait(60)
    assert set(answers) == {"/v1/rank 200", "/v1/feedback 200"}
    assert receipt["state"] == "waiting"  # what the other worker has removed by itself is in no receipt
    assert looked_at["returned"] == {}
    left = [Exposure.from_stream(fields) for _, fields in cast("Any", store.xrange(keys.exposures))]
    assert all(exposure.time_ms > receipt["asked_ms"] for exposure in left)


async def test_the_export_has_nothing_of_others(service: Running, store: redis.Redis, keys: Keys) -> None:
    await service.rank(OTHER, unit=WHO)
    await eventually(lambda: texts_in(store, keys.exposures))
    assert (await service.http.get(f"/v1/users/{WHO}/export")).json()["stored"]["exposures"] == []
    assert (await service.http.delete(f"/v1/users/{WHO}")).json()["removed"] == {"exposures": 1}


async def test_the_status_counts_tombstones(service: Running, store: redis.Redis, keys: Keys) -> None:
    await service.http.delete(f"/v1/users/{WHO}")
    await service.http.put(f"/v1/users/{OTHER}/opt-out")
    assert (await service.status())["forgetting"] == {
        "tombstones": 2, "opted_out": 1, "not_understood": 0, "unlooked": 0, "error": None,
    }  # fmt: skip
    store.hset(keys.tombstones, "f" * 32, "{}")
    store.hincrby(keys.tombstones, REVISION, 1)
    await eventually(lambda: service.app.state.service.status()["forgetting"]["error"])


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
    assert places_of(store, keys, WHO) == {f"request:{answer.json()['id']}"}


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


async def test_an_opt_out_survives_a_worker_that_does_not_know_of_it(
    link: RedisLink, store: redis.Redis, keys: Keys
) -> None:
    knowing, other = erasure_of(link, keys), erasure_of(link, keys)
    late = int(time.time() * 1000) + 60_000  # of a machine whose clock runs ahead
    await knowing.tombstones.write(WHO, late, opted_out=True)
    await other.forget(WHO, "")
    assert other.tombstones.current.of(WHO) == Tombstone(forgotten_ms=late, opted_out=True)
    third = erasure_of(link, keys)
    await third.opt_in(WHO)
    assert third.tombstones.current.of(WHO) == Tombstone(forgotten_ms=late + 1)  # later, so that jobs believe it


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


async def test_opting_in_needs_redis(settings: Settings, publisher: Publisher) -> None:
    """Otherwise it would be answered without an effect."""
    publisher.publish()
    async with running(settings) as service:
        await service.app.state.service.erasure.traces.link.close()
        assert (await service.http.put(f"/v1/users/{WHO}/opt-in")).status_code == 503


@pytest.mark.parametrize("damage", ["no revision", "no salt", "an empty salt", "another type"])
async def test_tombstones_that_cannot_be_told_are_not_taken_for_none(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, damage: str
) -> None:
    """Nobody is remembered by a service that has just started, and by one that knew them."""
    publisher.publish()
    feedback = {"user_id": WHO, "item_id": "a", "value": 4.0}
    async with running(settings) as service:
        assert (await service.http.put(f"/v1/users/{WHO}/opt-out")).status_code == 202
        match damage:
            case "no revision":
                store.hdel(keys.tombstones, REVISION)
            case "no salt":
                store.hdel(keys.tombstones, SALT, REVISION)
            case "an empty salt":
                store.hset(keys.tombstones, mapping={SALT: "", REVISION: 5})
            case "another type":
                store.delete(keys.tombstones)
                store.set(keys.tombstones, "x")
        async with running(settings) as other:
            assert (await other.http.post("/v1/feedback", json=feedback)).status_code == 503
            assert (await other.status())["forgetting"]["error"]
        await service.http.post("/v1/feedback", json=feedback)
        # A deletion brings a new revision, and no new salt, which would hide whoever was forgotten under the old one.
        assert (await service.http.delete("/v1/users/x")).status_code == (202 if damage == "no revision" else 503)
    assert not store.exists(keys.user_history(WHO))
    assert not store.exists(keys.interactions) or not store.xlen(keys.interactions)


async def test_a_job_does_not_bring_back_a_request_that_was_removed_meanwhile(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    asked = await service.app.state.service.erasure.requests.ask(JobRequest.new(RequestKind.EXPORT, WHO))
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    change_request(Store(store, keys, Path(), ""), asked.changed(RequestState.FAILED, note="x"))
    assert places_of(store, keys, WHO) == {f"request:{receipt['id']}"}


async def test_a_damaged_list_of_releases_stops_no_deletion(service: Running, store: redis.Redis, keys: Keys) -> None:
    assert (await service.http.post("/v1/feedback", json={"user_id": WHO, "item_id": "a", "value": 4.0})).is_success
    for damage in ("{damaged", '{"a": 1}', "[1]"):
        store.set(keys.releases, damage)
        answer = await service.http.delete(f"/v1/users/{WHO}")
        assert answer.status_code == 202
    names: Any = store.zrange(keys.requests, 0, -1)
    assert places_of(store, keys, WHO) <= {f"request:{name.decode()}" for name in names}
