"""The study of unlearning: four models on the same samples, noted in the ledger, in one page."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import typer.testing

from research.__main__ import app
from research.reranking.unlearning import RETRAINED, TUNED, UNLEARNED, ZERO_SHOT, jensen_shannon
from research.test_set_ledger import Ledger
from tests.offline.reranking.conftest import Tuned


def test_jensen_shannon_by_hand() -> None:
    assert jensen_shannon(np.array([0.0, 0.3]), np.array([1.0, 0.3])) == pytest.approx(math.log(2) / 2)
    expected = 0.5 * (0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625))
    expected += 0.5 * (0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625))
    assert jensen_shannon(np.array([0.5]), np.array([0.25])) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_the_study_puts_its_tables_into_the_page_and_its_looks_into_the_ledger(
    tuned: Tuned, cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- unlearning small -->\n<!-- /unlearning small -->\n")
    monkeypatch.setattr("research.cli.quality.job_of", lambda config, data_dir, **_: tuned.job)
    for _ in range(2):  # what is there is taken as it is, and is no further look
        result = typer.testing.CliRunner().invoke(app, ["unlearning", "--write", str(page)])
        assert result.exit_code == 0, result.output
        text = page.read_text()
        for name in (ZERO_SHOT, TUNED, UNLEARNED, RETRAINED):
            assert f"| {name} |" in text
        assert Ledger(tmp_path / "test-looks.jsonl").count("small") == 3
