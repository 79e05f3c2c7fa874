"""What is written of a user who is forgotten meanwhile goes again."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import httpx2
import pytest
import redis
from redis.exceptions import ResponseError

from models.contract.events import Interaction
from models.contract.exposures import Exposure
from models.contract.forgetting import Tombstones
from models.contract.keys import Keys
from offline.child import child_python
from service.errors import RedisUnavailable
from service.forgetting import erasure
from service.ranking.deadline import Deadline
from service.redis import RedisLink
from tests.conftest import ROOT
from tests.service.conftest import erasure_of, eventually
from tests.service.forgetting.traces import OTHER, WHO
from tests.service.tiny import Publisher

BODY = {"user_id": "frida-kahlo", "candidates": [{"id": "a"}, {"id": "e"}]}


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
    assert writing.status()["unlooked"] == 2  # those who are being looked at count until that is done
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


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_user_who_cannot_be_swept_keeps_no_others_waiting(
    link: RedisLink, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Wherever among them; it is the last that is left, and is deleted once it can be."""
    users, whole, failing, attempts = ["u0", "u1", "u2"], link.round_trip, [True], Counter[str]()
    forgetting, writing = erasure_of(link, keys), erasure_of(link, keys)
    judged, now = writing.tombstones.current, int(time.time() * 1000)
    for user in users:
        await forgetting.tombstones.write(user, now)
        event = Interaction(user_id=user, item_id="a", value=3.0, time_ms=now)
        store.set(keys.user_history(user), event.pack())

    async def round_trip(commands: Any, deadline: Deadline, may_be_stale: bool = False) -> list[Any]:
        replies: list[Any] = await whole(commands, deadline, may_be_stale)
        for at, command in enumerate(commands):
            if failing[0] and command[:2] == ("GET", keys.user_history(users[place])):
                attempts["failed"] += 1
                replies[at] = ResponseError("MISCONF something about this key alone")
        return replies

    monkeypatch.setattr(link, "round_trip", round_trip)
    await writing.write([("SET", f"{keys.prefix}:x", "y")], Deadline(5.0), users, judged)
    watch = asyncio.create_task(writing.watch())
    await eventually(lambda: store.exists(*map(keys.user_history, users)) == 1)
    assert store.exists(keys.user_history(users[place]))
    await eventually(lambda: attempts["failed"] > 3)
    assert writing.status()["unlooked"] == 1
    failing[0] = False
    await eventually(lambda: writing.status()["unlooked"] == 0)
    assert not store.exists(keys.user_history(users[place]))
    watch.cancel()
    await asyncio.wait({watch})


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


@pytest.mark.parametrize("hangs", [False, True])
async def test_nothing_is_written_that_nobody_could_look_at(
    link: RedisLink, store: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Whether what was written waits, or is being looked at."""
    monkeypatch.setattr("service.forgetting.erasure.UNLOOKED_AT_MOST", 2)
    answer = asyncio.Event()

    async def on(command: str) -> None:
        if command in ("EVAL", "HGETALL"):
            if hangs:
                await answer.wait()
            raise RedisUnavailable("no answer")

    writing = await forgotten_between(link, keys, monkeypatch, on, 0.05 if hangs else 10.0)
    with pytest.raises(RedisUnavailable, match="too much is to be looked at"):
        await writing.write([("SET", f"{keys.prefix}:x", "y")], Deadline(5.0), {"u"}, Tombstones())
    assert not store.exists(f"{keys.prefix}:x")
    answer.set()
    await writing.close()


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
