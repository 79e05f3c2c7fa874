"""Installations in small; see ``pipeline``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.training import artifact
from tests.exports import export_of_its_form
from tests.offline.pipeline import Pipeline, patched, pipeline

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def graphs_are_shared() -> Iterator[None]:
    """Trainings here export a graph of each form once; tests/models and tests/e2e export every model really."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifact, "export_onnx", export_of_its_form)
        yield


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
