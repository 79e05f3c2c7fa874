"""Folders that processes share: made once, in use for as long as somebody holds them, and never anybody else's."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import shared as sharing
from service.shared import SharedFolders
from tests.service.conftest import ROOT


class Maker:
    """Fills a folder with one file, and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self, folder: Path) -> None:
        self.made += 1
        (folder / "file").write_text("whole")


async def made(shared: SharedFolders, name: str, maker: Maker) -> Path | None:
    async with shared.turn():
        return await shared.folder(name, maker)


def right(folder: Path | None) -> bool:
    return folder is not None and (folder / "file").read_text() == "whole"


def old(tmp_path: Path) -> None:
    """Let everything that lies there be old."""
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))


async def test_a_folder_is_made_once(tmp_path: Path) -> None:
    maker = Maker()
    assert right(await made(SharedFolders(tmp_path), "a", maker))
    assert right(await made(SharedFolders(tmp_path), "a", maker))
    assert maker.made == 1


async def test_folders_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    shared, other, maker = SharedFolders(tmp_path), SharedFolders(tmp_path), Maker()
    await made(shared, "a", maker)
    await made(shared, "b", maker)
    await made(other, "c", maker)
    shared.keep({"a"})
    assert shared.has("a", "b", "c"), "b may have been made for somebody who comes in a moment"
    old(tmp_path)
    shared.keep({"a"})
    assert shared.has("a", "c"), "another process uses c"
    assert not shared.has("b")
    other.close()
    old(tmp_path)
    shared.keep({"a"})
    assert not shared.has("c")
    await made(shared, "a", maker)
    assert maker.made == 3
    await made(shared, "b", maker)
    assert maker.made == 4


async def test_nothing_is_removed_while_somebody_has_the_turn(tmp_path: Path) -> None:
    shared = SharedFolders(tmp_path)
    await made(shared, "a", Maker())
    old(tmp_path)
    async with SharedFolders(tmp_path).turn():
        shared.keep(set())
    assert shared.has("a")


async def test_what_is_somebody_elses_stays(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "appendonly.aof").write_text("all there is")
    (tmp_path / "lorank-x.partial").mkdir()
    shared = SharedFolders(tmp_path)
    await made(shared, "a", Maker())
    old(tmp_path)
    shared.keep(set())
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == ["valkey"]  # noqa: ASYNC240
    assert (tmp_path / "valkey" / "appendonly.aof").exists()


async def test_a_folder_that_was_not_completed_is_made_again(tmp_path: Path) -> None:
    async def failing(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise RuntimeError("Redis is gone")

    shared = SharedFolders(tmp_path)
    async with shared.turn():
        with pytest.raises(RuntimeError, match="Redis is gone"):
            await shared.folder("a", failing)
    assert not list(tmp_path.glob("*.partial"))  # noqa: ASYNC240
    assert right(await made(shared, "a", Maker()))


async def test_what_was_made_before_the_machine_started_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    await made(SharedFolders(tmp_path), "a", maker)
    monkeypatch.setattr(sharing, "_boot", lambda: "another")
    await made(SharedFolders(tmp_path), "a", maker)
    assert maker.made == 2


async def test_without_locks_nothing_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    shared = SharedFolders(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert await made(shared, "a", Maker()) is None
        assert await made(shared, "a", Maker()) is None
    assert len(caplog.records) == 1
    assert "not supported" in caplog.text
    assert not shared.shares


async def test_one_process_makes_at_a_time(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys, time; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX);"
        "print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", code, str(tmp_path / "lorank-lock")], cwd=ROOT, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        waiting = asyncio.create_task(made(SharedFolders(tmp_path), "a", Maker()))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        other.kill()
        assert right(await waiting)
