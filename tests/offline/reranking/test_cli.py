"""The two commands: what their options change, and how they fail."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.testing

from offline.__main__ import app
from offline.cli.tuning import sized
from offline.config import JobConfig
from offline.stages import Job
from tests.offline.pipeline import pipeline
from tests.offline.reranking.conftest import Tuned
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


def test_judging_puts_the_tables_into_the_page(
    tuned: Tuned, cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- reranking small -->\n<!-- /reranking small -->\nafter\n")
    monkeypatch.setattr("offline.cli.tuning.job_of", lambda config, data_dir, **_: tuned.job)
    result = typer.testing.CliRunner().invoke(app, ["reranking", "--write", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- /reranking small -->\nafter\n")
    assert "| tuned, relevant |" in text
    assert (tmp_path / "test-looks.jsonl").is_file()
    assert (tuned.job.config.workdir / "reranker" / "judged.json").is_file()
