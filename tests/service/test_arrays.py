"""Sets of arrays: made once, mapped by all, and in memory where they cannot be shared."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service import arrays
from service.arrays import NewArrays, SharedArrays

ROOT = Path(__file__).parents[2]


class Maker:
    """Makes a set of three arrays, and counts how often."""

    def __init__(self, value: int = 7) -> None:
        self.made = 0
        self._value = value

    async def __call__(self, new: NewArrays) -> None:
        self.made += 1
        numbers = new.allocate("numbers/of items", (5, 2), np.float32)
        assert not numbers.any()
        numbers[:] = self._value
        numbers[1] = 1
        new.cut("numbers/of items", 3)
        new.allocate("flags", (4,), np.uint8)[:] = 1
        new.allocate("nothing", (4, 0), np.int64)


async def made(shared: SharedArrays, name: str, maker: Maker) -> dict[str, np.ndarray]:
    async with shared.turn():
        return await shared.made(name, maker)


def right(found: dict[str, np.ndarray], value: int = 7) -> bool:
    assert [one.shape for one in found.values()] == [(3, 2), (4,), (4, 0)]
    assert found["nothing"].dtype == np.int64
    assert found["flags"].tolist() == [1, 1, 1, 1]
    return bool(found["numbers/of items"].tolist() == [[value, value], [1, 1], [value, value]])


async def test_a_set_is_made_once_and_mapped_by_everybody(tmp_path: Path) -> None:
    maker = Maker()
    first = await made(SharedArrays(tmp_path), "a", maker)
    second = await made(SharedArrays(tmp_path), "a", maker)
    assert maker.made == 1
    assert right(first)
    assert right(second)
    with pytest.raises(ValueError, match="read-only"):
        second["flags"][0] = 2


def old(tmp_path: Path) -> None:
    """Let everything that lies there be old."""
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))


async def test_sets_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    shared, other, maker = SharedArrays(tmp_path), SharedArrays(tmp_path), Maker()
    await made(shared, "a", maker)
    mapped = await made(shared, "b", maker)
    await made(other, "c", maker)
    shared.keep({"a"})
    assert shared.has("a", "b", "c"), "b may have been made for somebody who comes in a moment"
    old(tmp_path)
    shared.keep({"a"})
    assert shared.has("a", "c"), "another process uses c"
    assert not shared.has("b")
    assert right(mapped), "whoever has mapped it goes on reading"
    other.close()
    old(tmp_path)
    shared.keep({"a"})
    assert not shared.has("c")
    await made(shared, "a", maker)
    assert maker.made == 3
    await made(shared, "b", maker)
    assert maker.made == 4


async def test_nothing_is_removed_while_somebody_has_the_turn(tmp_path: Path) -> None:
    shared, maker = SharedArrays(tmp_path), Maker()
    await made(shared, "a", maker)
    old(tmp_path)
    async with SharedArrays(tmp_path).turn():
        shared.keep(set())
    assert shared.has("a")


async def test_what_is_somebody_elses_stays(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "appendonly.aof").write_text("all there is")
    (tmp_path / "lorank-x.partial").mkdir()
    shared = SharedArrays(tmp_path)
    await made(shared, "a", Maker())
    old(tmp_path)
    shared.keep(set())
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == ["valkey"]  # noqa: ASYNC240
    assert (tmp_path / "valkey" / "appendonly.aof").exists()


async def test_a_set_that_was_not_completed_is_made_again(tmp_path: Path) -> None:
    shared = SharedArrays(tmp_path)

    async def failing(new: NewArrays) -> None:
        new.allocate("flags", (4,), np.uint8)
        raise RuntimeError("Redis is gone")

    async with shared.turn():
        with pytest.raises(RuntimeError, match="Redis is gone"):
            await shared.made("a", failing)
    assert not list(tmp_path.glob("*.partial"))  # noqa: ASYNC240
    assert right(await made(shared, "a", Maker()))


@pytest.mark.parametrize("damage", ["{", "[]", '[["a", "<f4", [1000000, 1000000]]]', '[["a", "no type", [1]]]'])
async def test_a_damaged_set_is_made_again(tmp_path: Path, damage: str) -> None:
    shared, maker = SharedArrays(tmp_path), Maker()
    await made(shared, "a", maker)
    (contents,) = tmp_path.glob("*/contents.json")  # noqa: ASYNC240
    if damage == "[]":
        next(contents.parent.glob("0")).unlink()
    else:
        contents.write_text(damage)
    assert right(await made(shared, "a", maker))
    assert maker.made == 2


async def test_what_was_made_before_the_machine_started_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    await made(SharedArrays(tmp_path), "a", maker)
    monkeypatch.setattr(arrays, "_boot", lambda: "another")
    await made(SharedArrays(tmp_path), "a", maker)
    assert maker.made == 2


async def test_without_a_folder_arrays_are_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    shared, maker = SharedArrays(tmp_path / "file" / "tables"), Maker()
    with caplog.at_level(logging.WARNING):
        assert right(await made(shared, "a", maker))
        assert right(await made(shared, "a", maker))
    assert maker.made == 2
    assert len(caplog.records) == 1
    assert not shared.shares


async def test_without_locks_arrays_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    shared = SharedArrays(tmp_path)
    assert right(await made(shared, "a", Maker()))
    assert "not supported" in caplog.text
    assert not list(tmp_path.glob("*a"))  # noqa: ASYNC240


async def test_on_a_full_disk_arrays_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert right(await made(SharedArrays(tmp_path), "a", Maker()))
    assert "No space left" in caplog.text


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
        waiting = asyncio.create_task(made(SharedArrays(tmp_path), "a", Maker()))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        other.kill()
        assert right(await waiting)
