"""Files of a release that are damaged, gone or another's: the scores are right or there are none, the reason names the
job that writes the file again, and nothing of it stays once the files are whole.

The files are those that a published tiny release has, whatever they are: a new kind of file is covered by itself.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from models.contract.artifact import ItemPopularity, ReleaseManifest
from models.contract.keys import Keys
from models.contract.popularity import pack_likes
from models.contract.snapshot import file_of
from models.split_model import HISTORY_GRAPH, parts_folder
from service.releases.loaded import file_states
from service.settings import Settings
from tests.service.api.test_recommend import facts_index
from tests.service.conftest import Running, eventually, running
from tests.service.tiny import ITEMS, Publisher, TinyItem, score_of
from tests.service.tiny_model import model_bytes

JOB = "python -m offline publish"
BODY = {"user_id": "u", "candidates": [{"id": item.id} for item in ITEMS]}
CHANGED = TinyItem("a", rating=5.0, vector=(0.5, 0.0, 0.0))
LARGE_WEIGHTS = 20_000  # rows of a table that becomes a file of its own


def publish(publisher: Publisher, release: str = "r1", offset: float = 0.0) -> ReleaseManifest:
    """A tiny release with a file of every kind."""
    likes = pack_likes([item.id for item in ITEMS], np.arange(len(ITEMS), dtype=np.float32))
    path = publisher.artifacts / f"popularity-{release}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(likes)
    return publisher.publish(
        release,
        content=model_bytes(user_rows=LARGE_WEIGHTS, offset=offset),
        indexes={"neighbours": facts_index(publisher)},
        popularity=ItemPopularity(
            file=path.name, sha256=hashlib.sha256(likes).hexdigest(), days=1.0, items=len(ITEMS) - 1
        ),
    )


def files_in(folder: Path) -> dict[Path, bytes]:
    """Every file under a folder, with its content."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def some_of_each_kind(contents: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """At most two files with the same beginning, ending and folder: one reader reads them alike."""
    kinds: defaultdict[tuple[Path, str, str], dict[Path, bytes]] = defaultdict(dict)
    for path, content in contents.items():
        kind = kinds[path.parent, path.name.partition("-")[0], path.suffix]
        if len(kind) < 2:
            kind[path] = content
    return {path: content for kind in kinds.values() for path, content in kind.items()}


def put(path: Path, content: bytes) -> None:
    """Write a file as every writer of served files does: under another name first."""
    partial = path.with_name(f"{path.name}.new")
    partial.write_bytes(content)
    partial.replace(path)


def flip(path: Path, content: bytes) -> None:
    """4 kB in the middle, as many as there are."""
    first, last = max(0, len(content) // 2 - 2048), min(len(content), len(content) // 2 + 2048)
    put(path, content[:first] + bytes(byte ^ 0xFF for byte in content[first:last]) + content[last:])


def truncate(path: Path, content: bytes) -> None:
    put(path, content[: len(content) // 2])


def remove(path: Path, content: bytes) -> None:
    path.unlink()


def exchange(path: Path, content: bytes) -> None:
    """Another whole file of the folder under this name, of the same kind where there are several."""
    others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other.read_bytes() != content]
    put(path, min(others, key=lambda other: other.suffix != path.suffix).read_bytes())


async def scores(service: Running) -> dict[str, float] | None:
    """Scores of the tiny items; None while the service answers that it cannot."""
    response = await service.http.post("/v1/rank", json=BODY)
    assert response.status_code in (200, 503), response.text
    if response.status_code == 503:
        return None
    return {item["id"]: item["score"] for item in response.json()["items"]}


def expected(*items: TinyItem) -> Any:
    return pytest.approx({item.id: score_of(item) for item in items}, rel=1e-5)


def reasons(status: Mapping[str, Any]) -> str:
    """All that a status says of files, "" of a service that lacks none."""
    refused = [status["refused"]["reason"]] if status["refused"] else []
    stages = status["stages"].values()
    return "; ".join([*refused, *(stage["reason"] for stage in stages if stage["state"] == "degraded")])


async def is_whole(service: Running) -> bool:
    status = await service.status()
    return status["release"] is not None and status["release"]["in_parts"] and not reasons(status)


@pytest.mark.parametrize("damage", [flip, truncate, remove, exchange])
async def test_before_the_start(
    settings: Settings, publisher: Publisher, damage: Callable[[Path, bytes], None]
) -> None:
    publish(publisher)
    contents = files_in(settings.artifact_folder)
    for path, content in (contents if damage is flip else some_of_each_kind(contents)).items():
        damage(path, content)
        async with running(settings) as service:
            answer, status = await scores(service), await service.status()
            assert JOB in reasons(status), path
            assert "\n" not in reasons(status), path
            assert answer == expected(*ITEMS) if answer is not None else status["release"] is None, path
            if path.name.startswith("column-"):
                assert answer is not None, "Redis holds what the file did"
            put(path, content)
            await eventually(lambda: is_whole(service))
            assert await scores(service) == expected(*ITEMS), path


@pytest.mark.parametrize("damage", [flip, remove])
async def test_between_two_revisions(
    settings: Settings, publisher: Publisher, damage: Callable[[Path, bytes], None]
) -> None:
    """The loaded release goes on with what it has; the next revision meets the damage."""
    publish(publisher)
    contents = some_of_each_kind(files_in(settings.artifact_folder))
    async with running(settings) as service:
        for turn, (path, content) in enumerate(contents.items()):
            damage(path, content)
            assert await scores(service) == expected(CHANGED if turn else ITEMS[0], *ITEMS[1:])
            await service.follows(revision=publisher.revise("r1", CHANGED))
            # Model and parts are in memory, whatever becomes of their files.
            assert JOB in reasons(await service.status()) or path.suffix in (".onnx", ".bin"), path
            assert await scores(service) == expected(CHANGED, *ITEMS[1:])
            put(path, content)
            await eventually(lambda: is_whole(service))
            assert await scores(service) == expected(CHANGED, *ITEMS[1:])


@pytest.mark.parametrize("damage", [flip, remove])
async def test_of_the_release_that_comes_next(
    settings: Settings, publisher: Publisher, damage: Callable[[Path, bytes], None]
) -> None:
    """The last good one goes on being served, or the next one by something else than the damaged file."""
    publish(publisher)
    before = files_in(settings.artifact_folder)
    publish(publisher, "r2", offset=0.5)
    after = {path: content for path, content in files_in(settings.artifact_folder).items() if path not in before}
    for path, content in some_of_each_kind(after).items():
        publisher.redis.set(publisher.keys.live, "r1")
        async with running(settings) as service:
            right = await scores(service)
            damage(path, content)
            publisher.redis.set(publisher.keys.live, "r2")
            status = await eventually(lambda: says_job(service))
            assert (await scores(service) == right) is (status["release"]["id"] == "r1"), path
            put(path, content)
            await service.follows(id="r2")
            await eventually(lambda: is_whole(service))


async def says_job(service: Running) -> dict[str, Any] | None:
    status = await service.status()
    return status if JOB in reasons(status) else None


async def test_a_part_that_the_release_does_not_name_is_left_alone(settings: Settings, publisher: Publisher) -> None:
    manifest = publish(publisher)
    (parts_folder(settings.artifact_folder / manifest.artifact) / HISTORY_GRAPH).write_bytes(b"of another model")
    async with running(settings) as service:
        assert await is_whole(service)
        assert await scores(service) == expected(*ITEMS)


async def test_items_that_redis_does_not_hold_either_are_refused(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    manifest = publish(publisher)
    assert manifest.snapshot is not None
    (settings.artifact_folder / file_of(manifest.snapshot.columns["vectors"])).unlink()
    for space in manifest.spaces.values():
        store.delete(keys.item_knowledge("b", space))
    store.delete(keys.item_features("b", "r1"))
    async with running(settings) as service:
        assert "Redis holds 4 of its 5 items" in (await service.refused())["reason"]
        assert (await service.http.get("/readyz")).status_code == 503


def test_every_file_of_a_release_is_watched(settings: Settings, publisher: Publisher) -> None:
    manifest = publish(publisher)
    assert set(file_states(settings.artifact_folder, manifest)) == set(files_in(settings.artifact_folder))


def test_a_state_tells_a_file_that_was_changed_in_place(settings: Settings, publisher: Publisher) -> None:
    manifest = publish(publisher)
    assert manifest.snapshot is not None
    path = settings.artifact_folder / file_of(manifest.snapshot.columns["vectors"])
    before, times = file_states(settings.artifact_folder, manifest), path.stat()
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_states(settings.artifact_folder, manifest) != before
