"""A small installation with a trained CTR model and a reranker tuned beside it. Tests that change files take a copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from models.contract.reranker import RerankerManifest
from offline.data.arrival import first_log
from offline.data.dataset import open_dataset
from offline.jobs.runs import Run
from offline.jobs.steps import Job
from offline.reranking.prepared import FOLDER, Prepared, prepare
from offline.reranking.run import tune_reranker
from offline.training.report import TrainingReport
from tests.offline.knowledge.fakes import HashEncoder
from tests.offline.pipeline import pipeline
from tests.offline.reranking.fakes import SETTINGS, model
from tests.offline.reranking.trained import TrainedJob, trained
from tests.synthetic import synthetic


@dataclass(frozen=True)
class Tuned:
    """``report`` is of the CTR model; ``read`` are the keys of all prompts that the job had read when it ended; judging
    reads others."""

    job: Job
    report: TrainingReport
    manifest: RerankerManifest
    read: frozenset[str]

    def ready(self) -> Prepared:
        return prepare(self.job, open_dataset(self.job.config.data, self.job.raw).catalogue())


def patched(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("offline.reranking.prepared.TextEncoder", lambda name, tokens, precision: HashEncoder())


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("reranker")
    installation = pipeline(folder, "", "")
    config = installation.config
    settings = SETTINGS.model_copy(update={"model": model(folder / "model")})
    job = Job(config.model_copy(update={"reranking": settings}), folder / "data")
    source = open_dataset(config.data, job.raw)
    catalogue = source.catalogue()
    log = first_log(source, catalogue, config.data.labels, config.feature_schema)
    report = trained(job, catalogue, log, installation.data.knowledge).report
    with pytest.MonkeyPatch.context() as patch:
        patched(patch)
        run = Run(job, "tune-reranker")
        with run.working():
            manifest = tune_reranker(run)
    scores = (config.workdir / FOLDER / "scores").glob("*.npz")
    return Tuned(job, report, manifest, frozenset(key for path in scores for key in np.load(path)["keys"].tolist()))


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> TrainedJob:
    """A CTR model alone, with histories of up to 29 events and enough validation samples for a band. Tests that change
    its files take a copy."""
    folder = tmp_path_factory.mktemp("original")
    data = synthetic(folder / "work")
    settings = SETTINGS.model_copy(update={"validation_rows": 500})
    job = Job(data.config.model_copy(update={"reranking": settings}), folder / "data")
    return trained(job, data.catalogue, data.log, data.knowledge)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the real text encoder."""
    patched(monkeypatch)
