"""Releases: loaded beside the live one and swapped; what does not fit is refused and changes nothing."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from models.contract.artifact import RefusedModel, ReleaseManifest
from models.contract.keys import Keys
from models.contract.knowledge import Space
from models.split_model import REQUEST_GRAPH, parts_folder
from models.valkey.embedded import embedded_redis
from service.redis import RedisLink
from service.releases.loader import Loader
from service.scoring import INLINE_SECONDS, INLINE_SECONDS_ALONE, CtrModel, load_model
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import Running, eventually, running
from tests.service.tiny import ITEMS, Publisher, TinyItem, score_of
from tests.service.tiny_model import (
    BARE_SCHEMA,
    FINGERPRINTS,
    INPUTS,
    SPACES,
    artifact_manifest,
    bare_manifest,
    model_bytes,
)


async def test_a_new_release_is_swapped_in_and_back(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    first = await service.rank()
    publisher.publish("r2", items=ITEMS[:2], content=model_bytes(offset=0.5))
    await service.follows(id="r2")
    second = await service.rank()
    assert second["release"] == "r2"
    assert second["items"] != first["items"]
    status = await service.status()
    assert status["release"]["items"] == 2
    assert status["release"]["swap_ms"] > 0
    assert status["release"]["spaces"] == FINGERPRINTS
    assert service.metric("lorank_release_info", release="r2", model="tiny", version="1") == 1
    assert service.metric("lorank_release_info", release="r1", model="tiny", version="1") == 0
    store.set(keys.live, "r1")
    await service.follows(id="r1")
    assert (await service.rank())["items"] == first["items"]


async def test_a_raised_revision_rebuilds_the_table(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    before = await service.rank(candidates=["a"])
    await service.follows(revision=publisher.revise("r1", TinyItem("a", rating=5.0)))
    after = await service.rank(candidates=["a"])
    assert after["items"][0]["score"] > before["items"][0]["score"]
    assert (await service.status())["release"]["items"] == len(ITEMS)


OTHER = Space(name="liber", side="user", rows=2, dim=3, components={"llm": "another"})
NARROW = (OTHER.model_copy(update={"dim": 2}), *(space for space in SPACES if space.key != OTHER.key))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"artifact_sha256": "0" * 64}, "sha256"),
        ({"artifact": "missing.onnx"}, "cannot be read"),
        ({"schema_fingerprint": "f" * 16}, "schema"),
        ({"spaces": {"user/liber": OTHER.fingerprint}}, "spaces"),
        ({"spaces": FINGERPRINTS | {"user/liber": OTHER.fingerprint}}, "spaces"),
        ({"snapshot": None}, "published by an earlier version"),
        ({"content": b"not a model"}, "not a usable model"),
        ({"content": model_bytes(artifact_manifest(inputs=INPUTS[1:]))}, "model takes"),
        (
            {
                "content": model_bytes(artifact_manifest().model_copy(update={"spaces": NARROW})),
                "spaces": {space.key: space.fingerprint for space in NARROW},
                "split": False,
            },
            "('user/liber', 2, 2)",
        ),
        ({"content": model_bytes(artifact_manifest(), user_rows=1, offset=float("nan"))}, "finite"),
    ],
)
async def test_a_release_that_does_not_fit_is_refused(
    service: Running, publisher: Publisher, changes: dict[str, Any], reason: str
) -> None:
    before = await service.rank()
    publisher.publish("bad", **changes)
    refusal = await eventually(service.refused)
    assert refusal["release"] == "bad"
    assert reason in refusal["reason"]
    assert service.metric("lorank_releases_refused_total") >= 1
    assert (await service.rank())["items"] == before["items"]
    assert (await service.status())["release"]["id"] == "r1"
    publisher.publish("bad")  # repaired under the same name
    await service.follows(id="bad")
    assert await service.refused() is None


async def test_a_model_that_the_jobs_refused_is_in_the_status(service: Running, store: redis.Redis, keys: Keys) -> None:
    assert (await service.status())["model_refused"] is None
    note = RefusedModel(release="r2", live="r1", reasons=("AUC -0.1",), at=1_700_000_000, max_auc_drop=0.01)
    store.set(keys.refused_model, note.model_dump_json())

    async def noted() -> Any:
        return (await service.status())["model_refused"]

    assert await eventually(noted) == note.model_dump(mode="json")
    assert await service.refused() is None, "the service itself has refused nothing"
    assert (await service.rank())["release"] == "r1"
    store.set(keys.refused_model, b"of another version")

    async def forgotten() -> bool:
        return await noted() is None

    await eventually(forgotten)


@pytest.mark.parametrize("content", [b"{}", b"\xff", b'{"id": "r1"}'])
async def test_a_manifest_that_is_not_understood_is_refused(
    service: Running, store: redis.Redis, keys: Keys, content: bytes
) -> None:
    store.set(keys.release_manifest("odd"), content)
    store.set(keys.live, "odd")
    assert "not understood" in (await eventually(service.refused))["reason"]
    store.set(keys.live, "nothing")

    async def other() -> bool:
        refusal = await service.refused()
        return refusal is not None and "no manifest" in refusal["reason"]

    await eventually(other)
    store.delete(keys.live)
    assert (await service.rank())["release"] == "r1"


async def test_the_service_starts_without_redis_and_recovers(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "later"
    url = f"unix://{folder}/valkey.sock"
    # The server is entered later but left last: while the service holds connections, nobody may stop it.
    with contextlib.ExitStack() as servers:
        async with running(settings.model_copy(update={"redis_url": url})) as service:
            assert (await service.http.get("/healthz")).status_code == 200
            assert (await service.http.get("/readyz")).status_code == 503
            status = await service.status()
            assert status["release"] is None
            assert status["redis"]["error"]
            assert status["stages"]["scoring"] == {"state": "off", "reason": "no release is loaded"}
            assert status["stages"]["reranking"]["state"] == "off"
            assert servers.enter_context(embedded_redis(folder)) == url
            with redis.Redis.from_url(url) as store:
                Publisher(store, Keys(settings.served_prefix), settings.artifact_folder).publish()
            await service.follows(id="r1")
            assert (await service.http.get("/readyz")).status_code == 200
            assert (await service.rank())["degraded"] == []


async def test_status_says_what_matters(service: Running) -> None:
    status = await service.status()
    assert status["release"]["id"] == "r1"
    assert status["release"]["model"] == {"name": "tiny", "version": "1"}
    assert status["release"]["created_at"] == 1_700_000_000
    assert status["release"]["in_parts"] is True
    assert status["redis"] == {"reachable": True, "error": None, "pointer": "ok"}
    assert status["last_minute"] == {"answers": 0, "degraded": {}}
    assert {name: stage["state"] for name, stage in status["stages"].items()} == {
        "features": "on", "knowledge": "on", "retrieval": "off", "scoring": "on", "reranking": "off", "exposures": "on",
    }  # fmt: skip
    assert status["exposures"] == {"queued": 0, "dropped": 0}
    assert status["settings"]["max_candidates"] == 2000
    assert "unix" not in str(status["settings"])


async def test_a_release_without_knowledge_consults_none(settings: Settings, publisher: Publisher) -> None:
    publisher.publish(content=model_bytes(bare_manifest()), schema=BARE_SCHEMA)
    publisher.user_knowledge("u", [[1.0, 1.0, 1.0]])
    async with running(settings) as service:
        answer = await service.rank("u", explain=True)
        assert answer["degraded"] == []
        assert answer["knowledge"] == {"fresh": 0, "stale": 0, "missing": 0}
        scores = {item["id"]: item["score"] for item in answer["items"]}
        assert scores == {item.id: pytest.approx(score_of(item), rel=1e-5) for item in ITEMS}
        for item in answer["items"]:
            assert item["explain"]["score_without_knowledge"] == item["score"]
        status = await service.status()
        assert status["release"]["spaces"] == {}
        assert status["stages"]["knowledge"]["state"] == "off"
        publisher.publish("r2")
        await service.follows(id="r2")
        assert (await service.rank("u"))["knowledge"] == {"fresh": 11, "stale": 0, "missing": 1}
        assert (await service.status())["stages"]["knowledge"]["state"] == "on"


@pytest.mark.parametrize(("cores", "seconds"), [({0}, INLINE_SECONDS_ALONE), ({0, 1}, INLINE_SECONDS)])
async def test_more_runs_stay_on_the_event_loop_where_no_core_is_left_for_a_thread(
    cores: set[int], seconds: float, settings: Settings, link: RedisLink, keys: Keys, telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert Loader.of(settings, link, keys, telemetry).inline_seconds == seconds


@pytest.mark.parametrize(("threads", "split", "gives_way"), [(1, True, True), (1, False, False), (2, True, False)])
async def test_only_parts_without_threads_of_their_own_are_opened_aside(
    threads: int, split: bool, gives_way: bool, settings: Settings, publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Threads that a session starts for itself inherit the priority of the thread that opens it."""
    nice: set[int] = set()

    def load(folder: Path, release: ReleaseManifest, threads: int) -> CtrModel:
        nice.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return load_model(folder, release, threads)

    monkeypatch.setattr("service.releases.loader.load_model", load)
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    publisher.publish(split=split)
    async with running(settings.model_copy(update={"onnx_threads": threads})) as service:
        await service.rank()
        assert nice == {usual}  # nothing was served that could be held up
        nice.clear()
        publisher.publish("r2", split=split, content=model_bytes(offset=0.5))
        await service.follows(id="r2")
    assert nice == {19 if gives_way else usual}


async def test_a_release_of_an_earlier_version_runs_as_a_whole(settings: Settings, publisher: Publisher) -> None:
    manifest = publisher.publish(split=False)
    assert b"parts" not in manifest.to_json().encode()
    async with running(settings) as service:
        answer = await service.rank()
        status = await service.status()
        assert status["release"]["in_parts"] is False
        assert status["stages"]["scoring"] == {"state": "on", "reason": ""}
        publisher.publish("r2")
        await service.follows(id="r2")
        assert (await service.status())["release"]["in_parts"] is True
        split = await service.rank()
    for item, other in zip(answer["items"], split["items"], strict=True):
        assert (item["id"], item["score"]) == (other["id"], pytest.approx(other["score"], rel=1e-6))


async def test_a_damaged_part_is_told_and_costs_nothing_but_time(settings: Settings, publisher: Publisher) -> None:
    manifest = publisher.publish()
    (parts_folder(settings.artifact_folder / manifest.artifact) / REQUEST_GRAPH).write_bytes(b"half of it")
    async with running(settings) as service:
        answer = await service.rank()
        assert answer["degraded"] == []
        scores = {item["id"]: item["score"] for item in answer["items"]}
        assert scores == {item.id: pytest.approx(score_of(item), rel=1e-5) for item in ITEMS}
        status = await service.status()
        assert status["release"]["in_parts"] is False
        assert status["refused"] is None
        scoring = status["stages"]["scoring"]
        assert scoring["state"] == "degraded"
        assert scoring["reason"].startswith("the model runs as a whole: release r1: artifact request.onnx has sha256")
