"""The command's options, and what they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.cli.tuning import sized
from offline.config import JobConfig
from offline.jobs.steps import Job
from tests.offline.pipeline import pipeline
from tests.offline.reranking.fakes import SETTINGS


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    return pipeline(tmp_path, "", "").config


def test_sizes_replace_those_of_the_configuration(config: JobConfig, tmp_path: Path) -> None:
    job = Job(config.model_copy(update={"reranking": SETTINGS}), tmp_path)
    assert sized(job, None, None, None).config == job.config
    changed = sized(job, 7, 3, Path("m")).config.reranking
    assert (changed.tuning.samples, changed.tuning.epochs, changed.model) == (7, 3, Path("m"))
    assert changed.tuning.rank == SETTINGS.tuning.rank
