"""Requests to the next job, as the service leaves and removes them, and reports of jobs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import redis

from models.contract.forgetting import EVERYTHING_MS
from models.contract.keys import Keys
from models.contract.request_places import is_about, types_of_lists
from models.contract.requests import OPEN_SECONDS, JobRequest, Report, ReportKind, RequestKind, RequestState
from models.redis_address import RedisAddress
from offline.publish.connection import Store
from offline.publish.requests import change_request, drop_ended, open_requests, remove_requests
from service.forgetting.requests import Requests
from service.ranking.deadline import Deadline
from service.redis_cluster import open_port
from tests.servers import running_cluster
from tests.service.conftest import Running
from tests.service.forgetting.traces import OTHER, WHO, places_of


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
    assert store.zcard(keys.open_requests) == 1
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
    """Those that are done, ended or removed make room; one to forget a user is never refused."""
    monkeypatch.setattr("service.forgetting.requests.MOST_REQUESTS", 3)

    async def status(user: str) -> int:
        return (await service.http.post(f"/v1/users/{user}/export")).status_code

    def names() -> list[str]:
        listed: Any = store.zrange(keys.open_requests, 0, -1)
        return [name.decode() for name in listed]

    assert [await status(f"u{at}") for at in range(4)] == [202, 202, 202, 503]
    first, second, third = names()
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()["id"]
    assert names() == [first, second, third, receipt]
    done(store, keys, receipt)
    assert await status("u4") == 503  # three are open still
    done(store, keys, first)
    assert [await status("u5"), await status("u6")] == [202, 503]
    assert (await service.http.get(f"/v1/requests/{receipt}")).json()["state"] == "done"
    removed = (await service.http.delete("/v1/users/u1")).json()
    assert removed["removed"] == {"requests": 1}
    done(store, keys, removed["id"])
    assert [await status("u7"), await status("u8")] == [202, 503]
    store.zadd(keys.open_requests, {third: JobRequest.new(RequestKind.EXPORT).asked_ms - 1000 * OPEN_SECONDS - 1})
    assert [await status("u9"), await status("u10")] == [202, 503]  # its end has come
    assert third not in names()


def done(store: redis.Redis, keys: Keys, name: str) -> None:
    """A job carries a request out."""
    request = JobRequest.model_validate_json(store.get(keys.request(name)))  # type: ignore[arg-type]
    change_request(Store(store, keys, Path(), ""), request.changed(RequestState.DONE))


async def test_the_same_is_asked_for_once_at_a_time(
    service: Running, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a job does for a request takes it time, whoever asks and how often."""
    monkeypatch.setattr("service.forgetting.requests.CLOSE_AT_MOST", 2)

    async def asked(kind: str, **more: Any) -> Any:
        answer = await service.http.post("/v1/requests", json={"kind": kind} | more)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def refused(user: str) -> bool:
        answer = await service.http.post("/v1/requests", json={"kind": "close_partition", "user_id": user})
        return answer.status_code == 503 and "run a job" in answer.json()["error"]["message"]

    first = await asked("dry_run")
    assert await asked("dry_run") == first
    done(store, keys, first["id"])
    second = await asked("dry_run")
    assert second["id"] != first["id"]
    store.delete(keys.request(second["id"]))  # as if Redis had lost it
    third = await asked("dry_run")
    assert third["id"] not in (first["id"], second["id"])
    later = f'{{"v": 2, "kind": "dry_run", "asked_ms": {third["asked_ms"]}}}'
    store.set(keys.request(third["id"]), later)  # which nobody here understands, and nobody takes off its list
    assert (await service.http.get(f"/v1/requests/{third['id']}")).status_code == 404
    fourth = await asked("dry_run")
    assert await asked("dry_run") == fourth
    assert {third["id"].encode(), fourth["id"].encode()} <= set(store.zrange(keys.open_requests, 0, -1))

    closing = await asked("close_partition", user_id="u1")
    assert await asked("close_partition", user_id="u1") == closing
    await asked("close_partition", user_id="u2")
    assert await refused("u3")
    of_another = JobRequest.new(RequestKind.CLOSE_PARTITION, "u3", "another (00000000)")
    assert await service.app.state.service.erasure.requests.ask(of_another) == of_another
    done(store, keys, closing["id"])
    assert (await asked("close_partition", user_id="u1"))["id"] != closing["id"]
    assert await refused("u4")
    assert (await service.http.delete("/v1/users/u2")).json()["removed"] == {"requests": 1}
    await asked("close_partition", user_id="u4")
    assert await refused("u5")
    places: Any = store.hgetall(keys.request_places)
    assert not any(b"u2" in cell for pair in places.items() for cell in pair)


async def test_what_is_asked_for_at_once_is_asked_for_once(
    service: Running, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By thirty callers, and half of them close partitions of the same users."""
    monkeypatch.setattr("service.forgetting.requests.CLOSE_AT_MOST", 4)

    async def answers(*bodies: Any) -> list[Any]:
        return await asyncio.gather(*(service.http.post("/v1/requests", json=body) for body in bodies))

    plans = await answers(*[{"kind": "dry_run"}] * 30)
    assert {answer.status_code for answer in plans} == {202}
    assert len({answer.json()["id"] for answer in plans}) == 1
    assert store.zcard(keys.open_requests) == 1
    for _ in range(3):  # what is done makes room for as many
        users = [f"u{number // 2}" for number in range(30)]
        closings = await answers(*({"kind": "close_partition", "user_id": user} for user in users))
        taken = [answer.json() for answer in closings if answer.status_code == 202]
        assert {answer.status_code for answer in closings} == {202, 503}
        assert len(taken) >= len({each["id"] for each in taken}) == len({each["user_id"] for each in taken}) == 4
        for name in {each["id"] for each in taken}:
            done(store, keys, name)
    done(store, keys, plans[0].json()["id"])
    assert not store.exists(keys.request_places, keys.open_requests)
    assert store.zcard(keys.done_requests) == 13


@pytest.mark.parametrize("body", [{"kind": "dry_run"}, {"kind": "close_partition", "user_id": "again"}])
async def test_a_repeated_or_refused_request_reads_no_list(
    service: Running, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    """Whatever number is open."""
    monkeypatch.setattr("service.forgetting.requests.MOST_REQUESTS", 50)
    first = (await service.http.post("/v1/requests", json=body)).json()
    for number in range(49):
        assert (await service.http.post(f"/v1/users/u{number}/export")).status_code == 202
    requests = service.app.state.service.erasure.requests
    sent: list[Any] = []
    whole = requests.link.round_trip

    async def round_trip(commands: Any, deadline: Deadline, may_be_stale: bool = False) -> list[Any]:
        sent.extend(command for command in commands if any("{requests}" in str(cell) for cell in command))
        replies: list[Any] = await whole(commands, deadline, may_be_stale)
        return replies

    monkeypatch.setattr(requests.link, "round_trip", round_trip)
    assert (await service.http.post("/v1/requests", json=body)).json() == first
    assert [command[0] for command in sent] == ["EVAL", "GET"]
    sent.clear()
    assert (await service.http.post("/v1/users/another/export")).status_code == 503
    assert [command[0] for command in sent] == ["EVAL"]


async def test_places_on_a_cluster(tmp_path: Path, keys: Keys) -> None:
    """The scripts' keys lie in one slot."""
    with running_cluster(tmp_path) as cluster:
        port = open_port(cluster.url, 4, "primary")
        try:
            requests = Requests(port, keys)
            asked = await asyncio.gather(*(requests.ask(JobRequest.new(RequestKind.DRY_RUN)) for _ in range(10)))
            assert len({request.id for request in asked}) == 1
            closing = await requests.ask(JobRequest.new(RequestKind.CLOSE_PARTITION, WHO))
            with RedisAddress.parse(cluster.url).connected() as client:
                jobs = Store(client, keys, Path(), "")
                assert open_requests(jobs) == [closing, asked[0]] or open_requests(jobs) == [asked[0], closing]
                change_request(jobs, asked[0].changed(RequestState.DONE))
                remove_requests(jobs, {WHO: closing.asked_ms})
                drop_ended(jobs)
                assert open_requests(jobs) == []
            assert [each.state for each in await requests.all()] == [RequestState.DONE]
            assert await requests.ask(JobRequest.new(RequestKind.DRY_RUN)) not in asked
            assert await requests.remove(WHO, closing.asked_ms) == 0
        finally:
            await port.close()


async def test_no_other_request_names_a_user_who_is_forgotten(
    service: Running, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.forgetting.requests.READ_AT_ONCE", 2)
    store.zadd(keys.open_requests, {"ended": 1})
    store.hset(keys.request_places, mapping={f"export:{WHO}": "ended", "ended": json.dumps([f"export:{WHO}", "by:x"])})
    later: dict[str, Any] = {"v": 2, "user_id": WHO, "kind": "redact", "asked_ms": 5, "since": "2027"}
    documents = {
        "of a later version": later, "of a later time": later | {"asked_ms": 2**60},
        "of no time": json.dumps(later | {"asked_ms": float("nan")}), "without a time": {"unit": WHO},
        "deep": {"about": [{"user_id": WHO}]}, "several": {"user_ids": [OTHER, WHO]},
        "said of": {"note": WHO, "asked_by": WHO},
        "damaged": f'{{"user_id":"{WHO}"', "a receipt": later | {"kind": "forget"}, "of another": {"user_id": OTHER},
        "of nobody": {"v": 2}, "damaged, of nobody": "[" * 100_000,
    }  # fmt: skip
    for at, (name, document) in enumerate(documents.items()):
        store.set(keys.request(name), document if isinstance(document, str) else json.dumps(document))
        store.zadd(keys.done_requests if at % 2 else keys.open_requests, {name: 2})
    for user in (WHO, OTHER):
        await service.http.post(f"/v1/users/{user}/export")
        await service.http.post("/v1/requests", json={"kind": "close_partition", "user_id": user})
    former = (await service.http.delete(f"/v1/users/{WHO}")).json()
    assert former["removed"] == {"requests": 9}
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    left = (former["id"], receipt["id"], "a receipt", "said of")
    assert places_of(store, keys, WHO) == {f"{{requests}}:request:{name}" for name in left}
    assert all(store.exists(keys.request(name)) for name in ("of another", "of nobody", "damaged, of nobody"))
    listed = (await service.http.get("/v1/requests")).json()["requests"]
    assert [each["user_id"] for each in listed] == [WHO, WHO, OTHER, OTHER]


async def test_of_a_user_who_opted_out_an_export_can_be_asked_for_and_no_partition_closed(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    receipt = (await service.http.put(f"/v1/users/{WHO}/opt-out")).json()
    close = {"kind": "close_partition", "user_id": WHO}
    refused = await service.http.post("/v1/requests", json=close)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "user_id")
    assert places_of(store, keys, WHO) == {f"{{requests}}:request:{receipt['id']}"}
    assert (await service.http.post(f"/v1/users/{WHO}/export")).status_code == 202
    await service.http.put(f"/v1/users/{WHO}/opt-in")
    await asyncio.sleep(0.01)  # somebody new, from then on
    assert (await service.http.post("/v1/requests", json=close)).status_code == 202


async def test_requests_of_a_service_whose_clock_runs_ahead_go_with_the_user(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    ahead = JobRequest.new(RequestKind.EXPORT).asked_ms + 3_600_000
    for kind in (RequestKind.EXPORT, RequestKind.CLOSE_PARTITION):
        for user in (WHO, OTHER):
            request = JobRequest.new(kind, user).model_copy(update={"asked_ms": ahead})
            await service.app.state.service.erasure.requests.ask(request)
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    assert receipt["removed"] == {"requests": 2}
    assert places_of(store, keys, WHO) == {f"{{requests}}:request:{receipt['id']}"}
    await service.http.post(f"/v1/users/{WHO}/export")  # of somebody new
    again = (await service.http.get(f"/v1/requests/{receipt['id']}")).json()
    assert again["returned"] == {}
    assert len(places_of(store, keys, WHO)) == 2


@pytest.mark.parametrize("asked_ms", ["NaN", "Infinity", "1e400", '"soon"', "null", "7", "8"])
def test_a_time_that_cannot_be_told_counts(asked_ms: str) -> None:
    document = f'{{"v":2,"user_id":"{WHO}","asked_ms":{asked_ms}}}'.encode()
    assert is_about(document, {WHO: 7}) is (asked_ms not in ("Infinity", "1e400", "8"))
    assert is_about(document, {WHO: EVERYTHING_MS})


def damage(store: redis.Redis, keys: Keys, name: str, now: int) -> str:
    """Damage something about requests; what the log has to name, or ""."""
    first, document = "a" * 32, JobRequest.new(RequestKind.DRY_RUN).model_copy(update={"id": "a" * 32})
    of_none: Any = b"\xff\xfe"
    match name:
        case "another type":
            for index, request in ((keys.open_requests, first), (keys.done_requests, "b" * 32)):
                store.hset(keys.request(request), "x", "y")
                store.zadd(index, {request: now})
            return keys.request(first)
        case "open list" | "done list":
            index = keys.open_requests if name == "open list" else keys.done_requests
            store.set(index, "x")
            return index
        case "places":
            store.set(keys.request_places, "x")
            return keys.request_places
        case "no text":
            store.zadd(keys.open_requests, {of_none: now})
            return r"\xff\xfe"
        case "long ago" | "in the far future":
            at_ms = -(10**13) if name == "long ago" else 10**30
            failed = document.changed(RequestState.FAILED, note="DataError: x")
            store.set(keys.request(first), failed.model_copy(update={"changed_ms": at_ms}).model_dump_json())
            store.zadd(keys.done_requests, {first: now})
        case "of an id":
            store.hset(keys.request_places, mapping={first: "junk", "b" * 32: "junk", "c" * 32: "[{},1]"})
            store.zadd(keys.open_requests, {first: now, "b" * 32: now, "c" * 32: now})
        case "of who asks":
            store.hset(keys.request_places, mapping={"by:dry_run:": "junk", "by:close_partition:": "1.5"})
        case _:
            store.hset(keys.request_places, mapping={"dry_run:": of_none, f"close_partition:{WHO}": ""})
    return ""


DAMAGES = ("another type", "open list", "done list", "places", "no text", "long ago", "in the far future", "of an id",
           "of who asks", "a place of none")  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("by", ["a service", "jobs"])
async def test_what_is_damaged_about_requests_stops_nobody(
    service: Running, store: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture, capsys: Any, name: str, by: str
) -> None:
    """It is said by its key, once, and is gone then if it was of no use to anybody."""
    now = JobRequest.new(RequestKind.DRY_RUN).asked_ms
    key, jobs = damage(store, keys, name, now), Store(store, keys, Path(), "")
    for _ in range(2):
        if by == "jobs":
            drop_ended(jobs)
            open_requests(jobs)
            remove_requests(jobs, {WHO: now})
        else:
            assert (await service.http.delete(f"/v1/users/{WHO}")).status_code == 202
            assert (await service.http.get("/v1/requests")).status_code == 200
            for asked in ({"kind": "dry_run"}, {"kind": "close_partition", "user_id": OTHER}):
                assert (await service.http.post("/v1/requests", json=asked)).status_code == 202
            assert (await service.http.post(f"/v1/users/{OTHER}/export")).status_code == 202
    said = capsys.readouterr().out.splitlines() if by == "jobs" else caplog.messages
    assert sum(key in line for line in said) == 1 or not key
    assert not store.exists(keys.request("a" * 32)) or by == "a service" or name == "in the far future"
    assert all(store.type(each) in (kind, b"none") for each, kind in types_of_lists(keys).items())
    assert (await service.http.delete(f"/v1/users/{OTHER}")).status_code == 202
    assert len(open_requests(jobs)) == (4 if by == "a service" else 1)


def test_a_report_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of 1,000,000 at most"):
        Report(name="run-1", kind=ReportKind.RUN, made_ms=1, body={"x": "y" * 1_000_000}).pack()


def test_requests_end() -> None:
    request = JobRequest.new(RequestKind.DRY_RUN)
    done = request.changed(RequestState.DONE)
    assert request.is_open
    assert not done.is_open
    assert done.ends_at < request.ends_at


async def test_a_job_does_not_bring_back_a_request_that_was_removed_meanwhile(
    service: Running, store: redis.Redis, keys: Keys
) -> None:
    asked = await service.app.state.service.erasure.requests.ask(JobRequest.new(RequestKind.EXPORT, WHO))
    receipt = (await service.http.delete(f"/v1/users/{WHO}")).json()
    change_request(Store(store, keys, Path(), ""), asked.changed(RequestState.FAILED, note="x"))
    assert places_of(store, keys, WHO) == {f"{{requests}}:request:{receipt['id']}"}
