"""Installations in small; see ``pipeline``."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.offline.pipeline import Pipeline, patched, pipeline

_numbers = itertools.count()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shared_valkey: str) -> Pipeline:
    """An installation after its first refresh. Tests take a copy of it."""
    installation = pipeline(tmp_path_factory.mktemp("finished"), shared_valkey, "finished")
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, installation)
        installation.refresh()
    return installation


@pytest.fixture
def fresh(tmp_path: Path, shared_valkey: str, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """An installation in which no job ever ran."""
    installation = pipeline(tmp_path / "fresh", shared_valkey, f"fresh-{next(_numbers)}")
    patched(monkeypatch, installation)
    return installation


@pytest.fixture
def installed(finished: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A copy of the finished installation."""
    installation = finished.copy(tmp_path / "installed", f"installed-{next(_numbers)}")
    patched(monkeypatch, installation)
    return installation
