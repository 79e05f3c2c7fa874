"""While a large table is served, the next one is prepared by another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from models.contract.artifact import ArtifactError
from models.contract.keys import Keys
from service import prepare, release
from service.errors import RedisUnavailable
from service.prepare import apart
from service.settings import Settings
from service.telemetry import Telemetry
from tests.service.conftest import ROOT, Running, eventually, running
from tests.service.tiny import ITEMS, Publisher, TinyItem
from tests.service.tiny_model import model_bytes


def folders(data_dir: Path) -> set[str]:
    """Kinds of the folders that are shared."""
    return {one.name.rsplit("-", 2)[1] for one in (data_dir / "tables").iterdir() if one.is_dir()}


async def test_what_was_prepared_apart_is_complete(
    settings: Settings, publisher: Publisher, telemetry: Telemetry
) -> None:
    publisher.publish()
    assert settings.redis_url is not None
    await apart(settings, settings.redis_url, telemetry)("r1", "")
    assert folders(settings.data_dir) == {"items", "columns"}
    async with running(settings) as service:
        assert (await service.rank())["release"] == "r1"


async def test_records_that_it_refuses_are_counted_here(
    settings: Settings, publisher: Publisher, telemetry: Telemetry, store: redis.Redis, keys: Keys
) -> None:
    publisher.publish()
    store.set(keys.item_features("a", "r1"), b"damaged")
    assert settings.redis_url is not None
    await apart(settings, settings.redis_url, telemetry)("r1", "")
    counted = telemetry.registry.get_sample_value("lorank_refused_records_total", {"kind": "item_features"})
    assert counted == 1


async def test_relative_folders_are_those_of_the_service(
    settings: Settings, publisher: Publisher, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish()
    monkeypatch.chdir(settings.data_dir.parent)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    relative = settings.model_copy(update={"data_dir": Path(settings.data_dir.name)})
    assert settings.redis_url is not None
    await apart(relative, settings.redis_url, telemetry)("r1", "")
    assert folders(settings.data_dir) == {"items", "columns"}


async def test_reasons_come_back(settings: Settings, publisher: Publisher, telemetry: Telemetry) -> None:
    assert settings.redis_url is not None
    publisher.publish("bad", artifact="missing.onnx")
    with pytest.raises(ArtifactError, match=r"artifact missing.onnx cannot be read"):
        await apart(settings, settings.redis_url, telemetry)("bad", "")
    with pytest.raises(RedisUnavailable, match="ConnectionError"):
        await apart(settings, "redis://127.0.0.1:1", telemetry)("bad", "")


async def test_a_process_that_dies_is_a_reason_too(
    settings: Settings, publisher: Publisher, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish()
    assert settings.redis_url is not None
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ArtifactError, match="preparing it ended with status 1"):
        await apart(settings, settings.redis_url, telemetry)("r1", "")


@pytest.fixture
async def large(settings: Settings, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A service for which its tiny table is a large one."""
    monkeypatch.setattr(release, "APART_ITEMS", 1)
    publisher.publish()
    async with running(settings) as one:
        yield one


async def test_revisions_and_releases_are_swapped_in(
    large: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    before = await large.rank(candidates=["a"])
    publisher.item(TinyItem("a", rating=5.0), "r1")
    store.incr(keys.release_revision("r1"))

    async def revision(wanted: str) -> bool:
        return bool((await large.status())["release"]["revision"] == wanted)

    await eventually(lambda: revision("1"), seconds=60)
    assert (await large.rank(candidates=["a"]))["items"][0]["score"] > before["items"][0]["score"]
    publisher.publish("r2", items=ITEMS[:2], content=model_bytes(offset=0.5))

    async def second() -> bool:
        return bool((await large.rank())["release"] == "r2")

    await eventually(second, seconds=60)
    assert (await large.status())["release"]["items"] == 2


async def test_a_release_that_does_not_fit_is_refused_with_its_reason(large: Running, publisher: Publisher) -> None:
    publisher.publish("bad", content=b"not a model")

    async def refused() -> str | None:
        found = (await large.status())["refused"]
        return None if found is None else str(found["reason"])

    assert "not a usable model" in await eventually(refused, seconds=60)
    assert (await large.rank())["release"] == "r1"


def test_settings_survive_the_environment(settings: Settings) -> None:
    foreign = {"PATH": os.environ["PATH"], "LORANK_PORT": "1", "LORANK_WORKERS": "7"}
    there = settings.model_copy(update={"max_candidates": 7}).to_environment(foreign)
    assert there["PATH"] == foreign["PATH"]
    assert Settings.from_environment(there) == settings.model_copy(update={"max_candidates": 7})


def test_the_program_gives_way_from_its_first_statement_on() -> None:
    statement = prepare._START.replace("from service.prepare import main", "main = lambda: os.nice(0)")
    assert subprocess.run([sys.executable, "-c", statement], timeout=60).returncode == 19


def test_the_program_says_why_in_one_line(settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.prepare", "nothing", ""],
        cwd=ROOT, env=settings.to_environment(os.environ), capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout) == ["ArtifactError", "release nothing: there is no manifest"]
