"""Sets of arrays: made once, mapped by all, and in memory where they cannot be shared."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from service.arrays import NewArrays, shared_arrays
from service.shared import SharedFolders


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


async def made(shared: SharedFolders, name: str, maker: Maker) -> dict[str, np.ndarray]:
    async with shared.turn():
        return await shared_arrays(shared, name, maker)


def right(found: dict[str, np.ndarray], value: int = 7) -> bool:
    assert [one.shape for one in found.values()] == [(3, 2), (4,), (4, 0)]
    assert found["nothing"].dtype == np.int64
    assert found["flags"].tolist() == [1, 1, 1, 1]
    return bool(found["numbers/of items"].tolist() == [[value, value], [1, 1], [value, value]])


async def test_a_set_is_made_once_and_mapped_by_everybody(tmp_path: Path) -> None:
    maker = Maker()
    first = await made(SharedFolders(tmp_path), "a", maker)
    second = await made(SharedFolders(tmp_path), "a", maker)
    assert maker.made == 1
    assert right(first)
    assert right(second)
    with pytest.raises(ValueError, match="read-only"):
        second["flags"][0] = 2


async def test_a_set_that_was_not_completed_is_made_again(tmp_path: Path) -> None:
    shared = SharedFolders(tmp_path)

    async def failing(new: NewArrays) -> None:
        new.allocate("flags", (4,), np.uint8)
        raise RuntimeError("Redis is gone")

    async with shared.turn():
        with pytest.raises(RuntimeError, match="Redis is gone"):
            await shared_arrays(shared, "a", failing)
    assert not list(tmp_path.glob("*.partial"))  # noqa: ASYNC240
    assert right(await made(shared, "a", Maker()))


@pytest.mark.parametrize("damage", ["{", "[]", '[["a", "<f4", [1000000, 1000000]]]', '[["a", "no type", [1]]]'])
async def test_a_damaged_set_is_made_again(tmp_path: Path, damage: str) -> None:
    shared, maker = SharedFolders(tmp_path), Maker()
    await made(shared, "a", maker)
    (contents,) = tmp_path.glob("*/contents.json")  # noqa: ASYNC240
    if damage == "[]":
        next(contents.parent.glob("0")).unlink()
    else:
        contents.write_text(damage)
    assert right(await made(shared, "a", maker))
    assert maker.made == 2


async def test_without_a_folder_arrays_are_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    shared, maker = SharedFolders(tmp_path / "file" / "tables"), Maker()
    with caplog.at_level(logging.WARNING):
        assert right(await made(shared, "a", maker))
        assert right(await made(shared, "a", maker))
    assert maker.made == 2
    assert len(caplog.records) == 1
    assert not shared.shares


async def test_on_a_full_disk_arrays_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert right(await made(SharedFolders(tmp_path), "a", Maker()))
    assert "No space left" in caplog.text
