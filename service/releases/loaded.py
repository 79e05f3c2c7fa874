"""A loaded release with what its next revision is loaded from, and the files that it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.contract.artifact import ReleaseManifest
from models.contract.snapshot import TableUpdate, file_of
from models.split_model import parts_folder
from service.ranking.ports import Release
from service.scoring import CtrModel

FileState = tuple[int, int, int, int]
"""Inode, size, and the times in ns at which content and inode changed last: others after every kind of writing."""


@dataclass(frozen=True, slots=True)
class LoadedItems:
    """The item table of a release. ``problem``: why it was made of the records in Redis and not of its files."""

    update: TableUpdate
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A release with what is needed to load its next revision. ``files``: their states, by path, before they were
    read; None of one that was not there."""

    release: Release
    model: CtrModel
    items: LoadedItems
    files: Mapping[Path, FileState | None]

    @property
    def is_damaged(self) -> bool:
        """Whether a file of the release could not be used, and something takes its place or does without."""
        return any((self.items.problem, self.release.scorer.problem, self.release.retriever.problem))


def file_states(folder: Path, manifest: ReleaseManifest) -> dict[Path, FileState | None]:
    """The states of all files of a release, by path."""
    parts = parts_folder(folder / manifest.artifact)
    paths = [folder / manifest.artifact, *(parts / name for name in manifest.parts)]
    if manifest.snapshot is not None:
        paths += [folder / file_of(digest) for digest in manifest.snapshot.columns.values()]
    paths += [folder / index.file for index in manifest.indexes.values()]
    if manifest.popularity is not None:
        paths.append(folder / manifest.popularity.file)
    return {path: _state(path) for path in paths}


def _state(path: Path) -> FileState | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
