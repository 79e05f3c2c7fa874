"""Vectors that a job computed travel to another machine, and those that it was shipped itself go with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.data.catalogue import DataError
from offline.data.files import write_arrays
from offline.knowledge.encoder import VectorStore
from offline.knowledge.marc.states import LanguageModelStates
from offline.knowledge.marc.store import StateStore, shipped_source
from offline.knowledge.run import export_vectors
from offline.knowledge.shipped import read_shipped, read_shipped_files, write_shipped
from tests.offline.knowledge.fakes import HashEncoder
from tests.offline.knowledge.marc.fakes import CountingReader
from tests.offline.pipeline import Pipeline


def test_without_vectors_the_job_to_run_is_named(fresh: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `refresh` or `knowledge` first"):
        export_vectors(fresh.job.config.knowledge, fresh.job.knowledge, fresh.job.checkpoints, tmp_path / "v.npz")


def test_all_vectors_are_exported(fresh: Pipeline, tmp_path: Path) -> None:
    knowledge = fresh.job.config.knowledge
    encoder = HashEncoder()
    reader = LanguageModelStates(tmp_path / "unused", knowledge.marc.model, knowledge.marc.max_tokens)
    source = shipped_source(reader.id, knowledge.marc.depth)
    vectors: FloatArray = np.eye(4, dtype=np.float32)
    shipped = tmp_path / "shipped.npz"
    write_shipped(shipped, {encoder.id: {f"{0:032x}": vectors[0]}})
    job = fresh.with_config(knowledge={"shipped_vectors": str(shipped)}).job
    write_arrays(job.knowledge / "encoded.npz", keys=np.array([f"{1:032x}"]), vectors=vectors[1:2].astype(np.float16))

    class SameModel(CountingReader):
        id = reader.id

    StateStore(job.knowledge / "marc" / "states", SameModel()).states(["a", "b", "c"], (knowledge.marc.depth,))
    write_arrays(job.knowledge / "groups" / "groups-item-0.npz", centre=vectors[0])
    assert export_vectors(job.config.knowledge, job.knowledge, job.checkpoints, tmp_path / "v.npz") == 5
    (array,) = read_shipped_files(tmp_path / "v.npz")["groups-item-0.npz"].values()
    np.testing.assert_array_equal(array, vectors[0])
    assert read_shipped(tmp_path / "v.npz", encoder.id).keys() == {f"{0:032x}", f"{1:032x}"}
    assert len(read_shipped(tmp_path / "v.npz", source)) == 3


def test_shipped_vectors_spare_the_encoder_unless_everything_is_to_be_made_live(
    fresh: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def texts_encoded(installation: Pipeline, **options: bool) -> set[str]:
        encoder = HashEncoder()
        monkeypatch.setattr("offline.knowledge.run.TextEncoder", lambda *_: encoder)
        installation.refresh(**options)
        return set(encoder.asked)

    folder = fresh.job.knowledge
    texts = texts_encoded(fresh)
    assert texts
    shipped = tmp_path / "shipped.npz"
    write_shipped(shipped, {HashEncoder().id: VectorStore(folder / "encoded.npz", HashEncoder()).read()})
    shutil.rmtree(folder)
    shipping = fresh.with_config(knowledge={"shipped_vectors": str(shipped)})
    assert texts_encoded(shipping) == set()
    shutil.rmtree(folder)
    assert texts_encoded(shipping, use_cache=False) == texts
