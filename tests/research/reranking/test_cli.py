"""The command that judges a tuned reranker."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.testing

from research.__main__ import app
from tests.offline.reranking.conftest import Tuned


def test_judging_puts_the_tables_into_the_page(
    tuned: Tuned, cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- reranking small -->\n<!-- /reranking small -->\nafter\n")
    monkeypatch.setattr("research.cli.quality.job_of", lambda config, data_dir, **_: tuned.job)
    result = typer.testing.CliRunner().invoke(app, ["reranking", "--write", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- /reranking small -->\nafter\n")
    assert "| tuned, relevant |" in text
    assert (tmp_path / "test-looks.jsonl").is_file()
    assert (tuned.job.config.workdir / "reranker" / "judged.json").is_file()
