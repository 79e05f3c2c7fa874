"""Files of a release are never changed in place, and a publication writes those again that are damaged or gone."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from offline.config import RetrievalConfig
from offline.publish.connection import Store
from tests.offline.publish.conftest import Release

RETRIEVAL = RetrievalConfig(matching="marc", popularity_days=0.5)


def _flip(path: Path, content: bytes) -> None:
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])


def _truncate(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])


def _remove(path: Path, content: bytes) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_flip, _truncate, _remove])
def test_damaged_files_are_replaced_and_those_who_map_them_see_nothing(
    store: Store, trained: Release, damage: Callable[[Path, bytes], None]
) -> None:
    config = trained.data.config.model_copy(update={"retrieval": RETRIEVAL})
    published = trained.with_data(config=config)
    published.publish(store)
    contents = {path: path.read_bytes() for path in sorted(store.artifacts.rglob("*")) if path.is_file()}
    assert {path.suffix for path in contents} == {".onnx", ".bin", ".npy", ".faiss", ".json"}
    for path, content in contents.items():
        damage(path, content)
    damaged = {path: path.stat().st_ino for path in contents if path.exists()}
    opened = {path: path.open("rb") for path in damaged}
    mapped = {path: mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for path, file in opened.items()}
    before = {path: bytes(mapping) for path, mapping in mapped.items()}
    published.publish(store)
    assert {path: path.read_bytes() for path in contents} == contents
    assert all(path.stat().st_ino != inode for path, inode in damaged.items())
    assert {path: bytes(mapping) for path, mapping in mapped.items()} == before
    for path in opened:
        mapped[path].close()
        opened[path].close()
