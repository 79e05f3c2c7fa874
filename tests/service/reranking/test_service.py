"""The whole service with a reranker: what a caller sees of it, and what happens when its model server is not well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.contract.artifact import ModelName
from models.contract.experiments import ExperimentsError
from models.contract.reranker import FittedTo
from service.app import create_app
from service.reranking import watch as module
from service.settings import Settings, SettingsError
from tests.service.conftest import Running, eventually, running
from tests.service.reranking.conftest import likes, written
from tests.service.reranking.model_server import ModelServerDouble, model_server
from tests.service.tiny import Publisher
from tests.service.tiny_model import model_bytes

ARMS = """
[[layers]]
name = "head"

[[layers.experiments]]
name = "rerank"

[[layers.experiments.arms]]
name = "without"
weight = 0

[[layers.experiments.arms]]
name = "with"
weight = 1
rerank_top_n = 4
rerank_weight = 1.0
"""


def configured(settings: Settings, double: ModelServerDouble, folder: Path, **changes: object) -> Settings:
    update = {"reranker": written(folder / "reranker"), "reranker_url": double.url} | changes
    return settings.model_copy(update=update)


@pytest.fixture
async def service(
    settings: Settings, publisher: Publisher, double: ModelServerDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.02)
    publisher.publish()
    async with running(configured(settings, double, tmp_path, rerank_check_seconds=3600.0)) as service:
        await eventually(lambda: state_is(service, "on"))
        yield service


async def state_is(service: Running, state: str) -> bool:
    return bool((await service.status())["stages"]["reranking"]["state"] == state)


async def test_a_forced_head_is_in_the_order_of_the_verdicts(service: Running) -> None:
    plain = await service.rank()
    forced = await service.rank(rerank="force")
    assert forced["degraded"] == []
    assert {item["id"] for item in forced["items"]} == set("abcde")
    assert [item["id"] for item in forced["items"]] != [item["id"] for item in plain["items"]]
    status = (await service.status())["reranker"]
    assert (status["name"], status["slots"], status["weight"]) == ("tiny-reranker", 4, 0.5)


async def test_nobody_is_asked_unless_an_arm_or_the_request_says_so(
    service: Running, double: ModelServerDouble
) -> None:
    double.requests.clear()
    await service.rank()
    await service.rank(rerank="off")
    assert double.requests == []


async def test_a_sick_server_degrades_then_is_left_alone_then_comes_back(
    service: Running, double: ModelServerDouble
) -> None:
    double.status = 500
    for _ in range(3):
        answer = await service.rank(rerank="force")
        assert answer["degraded"] in (["no_rerank", "rerank_failed"], ["no_rerank", "rerank_off"])
    await eventually(lambda: state_is(service, "off"))
    assert "answered 500" in (await service.status())["stages"]["reranking"]["reason"]
    assert (await service.rank(rerank="force"))["degraded"] == ["no_rerank", "rerank_off"]
    assert (await service.rank())["degraded"] == []
    assert service.metric("lorank_degraded_total", word="no_rerank") == 4
    double.status = 200
    await eventually(lambda: state_is(service, "on"))
    assert (await service.rank(rerank="force"))["degraded"] == []


async def test_a_server_that_hangs_costs_the_deadline_and_no_answer(
    service: Running, double: ModelServerDouble
) -> None:
    plain = await service.rank()
    double.delay = 60
    answer = await service.rank(rerank="force", deadline_ms=300)
    assert answer["degraded"] == ["no_rerank", "rerank_late"]
    assert answer["items"] == plain["items"]


async def test_the_service_starts_without_its_model_server(
    settings: Settings, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.02)
    publisher.publish()
    with model_server(likes) as gone:
        pass
    async with running(configured(settings, gone, tmp_path)) as service:
        assert (await service.rank(rerank="force"))["degraded"] == ["no_rerank", "rerank_off"]
        with model_server(likes, port=int(gone.url.rpartition(":")[2])):
            await eventually(lambda: state_is(service, "on"))
            assert (await service.rank(rerank="force"))["degraded"] == []


async def test_an_arm_reranks_with_its_weight(
    settings: Settings, publisher: Publisher, double: ModelServerDouble, tmp_path: Path
) -> None:
    publisher.publish()
    file = tmp_path / "arms.toml"
    file.write_text(ARMS)
    async with running(configured(settings, double, tmp_path, experiments=file)) as service:
        await eventually(lambda: state_is(service, "on"))
        answer = await service.rank(candidates="abcd")
        assert [item["id"] for item in answer["items"]] == ["d", "c", "b", "a"]
        double.likes = lambda prompt: 1.0 - likes(prompt)
        assert [item["id"] for item in (await service.rank(candidates="abcd"))["items"]] == ["a", "b", "c", "d"]
        without = await service.rank(candidates="abcd", arms={"head": "without"})
        assert [item["id"] for item in without["items"]] == ["d", "c", "b", "a"]


async def test_a_weight_that_was_found_beside_another_ctr_model_is_said_and_still_used(
    settings: Settings, publisher: Publisher, double: ModelServerDouble, tmp_path: Path
) -> None:
    release = publisher.publish()
    fitted_to = FittedTo(model=release.model, artifact_sha256=release.artifact_sha256)
    folder = written(tmp_path / "fitted", fitted_to=fitted_to)
    async with running(configured(settings, double, tmp_path, reranker=folder)) as service:
        await eventually(lambda: state_is(service, "on"))
        assert (await service.status())["reranker"]["fitted_to"] == fitted_to.model_dump()
        retrained = model_bytes(offset=0.5)
        publisher.publish("r2", content=retrained, model=ModelName(name="tiny", version="2"))
        await eventually(lambda: state_is(service, "degraded"))
        assert (await service.status())["stages"]["reranking"]["reason"] == (
            "weight and band were fitted against model tiny 1, and tiny 2 is live: run `tune-reranker`"
        )
        assert (await service.rank(rerank="force"))["degraded"] == []


def test_a_reranker_that_cannot_be_used_stops_the_start(
    settings: Settings, double: ModelServerDouble, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"LORANK_RERANKER: .* cannot be used"):
        create_app(settings.model_copy(update={"reranker": tmp_path / "absent", "reranker_url": double.url}))
    file = tmp_path / "arms.toml"
    file.write_text(ARMS)
    with pytest.raises(ExperimentsError, match="no reranker is configured"):
        create_app(settings.model_copy(update={"experiments": file}))


def test_both_settings_or_neither() -> None:
    with pytest.raises(SettingsError, match="LORANK_RERANKER and LORANK_RERANKER_URL go together"):
        Settings.from_environment({"LORANK_RERANKER_URL": "http://127.0.0.1:1"})
