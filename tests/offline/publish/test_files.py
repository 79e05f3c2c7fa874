"""Files of a release are never changed in place, and a publication writes those again that are damaged or gone."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from models.split_model import parts_folder
from offline.config import RetrievalConfig
from offline.publish import release
from offline.publish.connection import Store
from offline.publish.gate import GateError
from tests.offline.graphs import constant
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


def _files_of(trained: Release, folder: Path) -> list[Path]:
    return [folder / trained.report.artifact, *sorted(parts_folder(folder / trained.report.artifact).iterdir())]


@pytest.mark.parametrize("damage", [_flip, _truncate, _remove])
def test_a_trained_model_whose_file_is_damaged_is_taken_back_from_what_is_served(
    store: Store, trained: Release, tmp_path: Path, damage: Callable[[Path, bytes], None]
) -> None:
    trained = replace(trained, models=copytree(trained.models, tmp_path / "models"))
    trained.publish(store)
    for path, copy in zip(*(_files_of(trained, folder) for folder in (trained.models, store.artifacts)), strict=True):
        content = path.read_bytes()
        damage(path, content)
        assert not trained.publish(store).switched
        assert path.read_bytes() == copy.read_bytes() == content
        damage(path, content)
        copy.unlink()
        with pytest.raises(GateError, match=f"{path.name} cannot be published: .* run `refresh`"):
            trained.publish(store)
        for place in (path, copy):
            place.write_bytes(content)


def test_the_live_model_is_written_again_although_another_was_trained_since(
    store: Store, trained: Release, tmp_path: Path
) -> None:
    trained = replace(trained, models=copytree(trained.models, tmp_path / "models"))
    other = trained.with_gate(max_auc_drop=1.0).scoring("other", constant)
    trained.publish(store)
    assert other.publish(store).switched
    release.rollback(store)
    for path in _files_of(trained, store.artifacts):
        content = path.read_bytes()
        path.unlink()
        assert other.publish(store).live_before == trained.id
        assert path.read_bytes() == content
