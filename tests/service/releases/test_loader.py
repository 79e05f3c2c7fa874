"""Item tables: mapped from a release's files, and brought up to date by what the stream of changes names."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from models.contract.keys import Keys
from models.contract.snapshot import file_of
from models.split_model import REQUEST_GRAPH, parts_folder
from service.releases.background import run_in_background
from service.settings import Settings
from tests.service.conftest import Running, eventually, running
from tests.service.tiny import ITEMS, Publisher, TinyItem, score_of
from tests.service.tiny_model import model_bytes

A, B = TinyItem("a", rating=5.0, vector=(0.5, 0.0, 0.0)), TinyItem("b", rating=5.0, vector=None)
NEW = TinyItem("new", genres=("horror",), rating=2.0, vector=(0.0, 0.0, 1.0))


async def scores(service: Running, *ids: str) -> dict[str, float]:
    return {item["id"]: item["score"] for item in (await service.rank(candidates=ids))["items"]}


def expected(*items: TinyItem) -> dict[str, Any]:
    return {item.id: pytest.approx(score_of(item), rel=1e-5) for item in items}


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
async def test_what_changed_is_read_and_nothing_else(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys, split: bool
) -> None:
    publisher.publish(split=split)
    store.set(keys.item_features("c", "r1"), b"damaged, and named by no change")
    async with running(settings) as service:
        assert (await service.status())["release"]["in_parts"] is split
        await service.follows(revision=publisher.revise("r1", A))
        assert await scores(service, "a", "b", "c") == expected(A, ITEMS[1], ITEMS[2])
        assert service.metric("lorank_refused_records_total", kind="item_features") == 0
        # The next revision maps the files anew, and holds what the one before has read.
        store.set(keys.item_features("a", "r1"), b"damaged, and named by no later change")
        await service.follows(revision=publisher.revise("r1", B))
        assert await scores(service, "a", "b", "c") == expected(A, B, ITEMS[2])
        assert (await service.status())["release"]["items"] == len(ITEMS)


async def test_new_items_join_a_table_and_can_be_found(service: Running, publisher: Publisher) -> None:
    assert (await service.rank(candidates=["new"]))["knowledge"]["fresh"] == 0
    await service.follows(revision=publisher.revise("r1", NEW))
    assert await scores(service, "a", "new") == expected(ITEMS[0], NEW)
    assert (await service.status())["release"]["items"] == len(ITEMS) + 1
    await service.follows(revision=publisher.revise("r1", A))
    assert await scores(service, "a", "new") == expected(A, NEW)


async def test_changes_since_the_snapshot_are_there_from_the_start(settings: Settings, publisher: Publisher) -> None:
    publisher.publish()
    publisher.revise("r1", A, NEW)
    async with running(settings) as service:
        assert await scores(service, "a", "b", "new") == expected(A, ITEMS[1], NEW)


def _trim(store: redis.Redis, keys: Keys) -> None:
    store.xtrim(keys.changes, maxlen=0, approximate=False)


def _delete(store: redis.Redis, keys: Keys) -> None:
    store.delete(keys.changes)


def _say_any(store: redis.Redis, keys: Keys) -> None:
    store.xadd(keys.changes, {"v": "1", "of": "r1", "items": "*"})


def _say_something_newer(store: redis.Redis, keys: Keys) -> None:
    store.xadd(keys.changes, {"v": "2", "what": "nobody knows yet"})


@pytest.mark.parametrize("spoil", [_trim, _delete, _say_any, _say_something_newer])
@pytest.mark.parametrize("runs_before", [True, False], ids=["running", "started later"])
async def test_every_item_is_read_if_it_is_not_known_which_changed(
    settings: Settings, publisher: Publisher, store: redis.Redis, keys: Keys,
    spoil: Callable[[redis.Redis, Keys], None], runs_before: bool,
) -> None:  # fmt: skip
    publisher.publish()

    def change() -> str:
        publisher.item(A, "r1")  # and no entry says so
        spoil(store, keys)
        return publisher.revise("r1", B)

    revision = "" if runs_before else change()
    async with running(settings) as service:
        if runs_before:
            await service.follows(revision=change())
        else:
            await service.follows(revision=revision)
        assert await scores(service, "a", "b", "c") == expected(A, B, ITEMS[2])


async def test_what_a_publication_under_way_had_named_is_read_again_when_it_ends(
    settings: Settings, publisher: Publisher
) -> None:
    publisher.publish()
    publisher.change("r1", "a")
    async with running(settings) as service:  # between the entry and the record
        assert await scores(service, "a") == expected(ITEMS[0])
        publisher.item(A, "r1")
        await service.follows(revision=publisher.revise("r1"))
        assert await scores(service, "a") == expected(A)


async def test_records_that_are_refused_are_counted(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    store.set(keys.item_features("a", "r1"), b"damaged")
    publisher.change("r1", "a")
    await service.follows(revision=publisher.revise("r1", B))
    assert service.metric("lorank_refused_records_total", kind="item_features") == 1
    assert await scores(service, "b") == expected(B)


@pytest.mark.parametrize("damage", [None, b"", b"half of it"])
async def test_a_damaged_column_is_a_reason_and_the_live_release_stays(
    service: Running, publisher: Publisher, settings: Settings, damage: bytes | None
) -> None:
    before = await service.rank()
    manifest = publisher.publish("bad", items=ITEMS[:2], switch=False)
    assert manifest.snapshot is not None
    path = settings.artifact_folder / file_of(manifest.snapshot.columns["vectors"])
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    publisher.redis.set(publisher.keys.live, "bad")
    assert "item column 'vectors'" in (await eventually(service.refused))["reason"]
    assert (await service.rank())["items"] == before["items"]
    publisher.publish("bad", items=ITEMS[:2])  # what is missing or damaged is written again
    await service.follows(id="bad")
    assert (await service.rank())["release"] == "bad"


async def test_a_damaged_directory_is_a_reason_where_every_item_is_read(
    service: Running, publisher: Publisher, store: redis.Redis, keys: Keys
) -> None:
    store.set(keys.item_directory("r1", 1), b"{")
    _say_any(store, keys)
    publisher.revise("r1", A)
    assert "item directory is missing or damaged" in (await eventually(service.refused))["reason"]
    assert await scores(service, "a") == expected(ITEMS[0])


async def test_a_model_whose_parts_come_back_has_columns_of_what_changed_meanwhile(
    settings: Settings, publisher: Publisher
) -> None:
    manifest = publisher.publish()
    part = parts_folder(settings.artifact_folder / manifest.artifact) / REQUEST_GRAPH
    content = part.read_bytes()
    part.write_bytes(b"half of it")
    async with running(settings) as service:
        await service.follows(revision=publisher.revise("r1", A))
        assert (await service.status())["release"]["in_parts"] is False
        part.write_bytes(content)
        await service.follows(revision=publisher.revise("r1", B))
        assert (await service.status())["release"]["in_parts"] is True
        assert await scores(service, "a", "b", "c") == expected(A, B, ITEMS[2])


async def test_threads_give_way_and_the_event_loop_does_not() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice()
    assert await run_in_background(nice) == 19
    assert nice() == before


async def test_answers_and_errors_come_back() -> None:
    assert await run_in_background(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_in_background(divmod, 7, 0)


async def test_a_process_that_may_open_no_more_files_does_not_take_them_for_damaged(
    settings: Settings, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the parts, nor a column: it says what it lacks, serves what it has, and reads them again when it can."""
    publisher.publish()
    refusing: list[str] = []
    opened = io.open

    def open_or_not(file: Any, *arguments: Any, **options: Any) -> Any:
        if any(word in str(file) for word in refusing):
            raise OSError(errno.EMFILE, "Too many open files", str(file))
        return opened(file, *arguments, **options)

    monkeypatch.setattr(io, "open", open_or_not)
    monkeypatch.setattr("builtins.open", open_or_not)
    async with running(settings) as service:
        for number, word in enumerate(("r2.onnx", REQUEST_GRAPH, "column-"), start=2):
            publisher.publish(f"r{number}", content=model_bytes(offset=0.1 * number), switch=False)
            refusing.append(word)
            publisher.redis.set(publisher.keys.live, f"r{number}")
            reason = (await eventually(service.refused))["reason"]
            assert "Too many open files" in reason
            assert "ulimit -n" in reason
            assert (await service.status())["release"]["id"] == f"r{number - 1}"
            refusing.clear()
            await service.follows(id=f"r{number}")
            assert (await service.status())["release"]["in_parts"]
            assert {stage["state"] for stage in (await service.status())["stages"].values()} <= {"on", "off"}
