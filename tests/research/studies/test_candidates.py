"""Every candidate in full beside the trees: trained once, told on the test samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.contract.schema import RunningSpec
from offline.training.candidates import Choice
from research.studies import candidates as study
from research.studies.candidates import CandidateStudy, train_candidates
from research.test_set_ledger import Ledger
from tests.synthetic import SCHEMA, job_config, synthetic


def test_candidates_are_trained_once_and_compared_with_the_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = synthetic(tmp_path, users=30, items=15, events=14)
    config = job_config(tmp_path, tree={"trees": 10, "leaves": 4}, choice={"candidates": ("tree", "din")})
    running = SCHEMA.model_copy(update={"running": RunningSpec()})
    config = config.model_copy(update={"feature_schema": running})
    choice = Choice("din", "", 200, "auto serves DIN: the lowest LogLoss", 8.0)

    def run() -> CandidateStudy:
        ledger, folder = Ledger(tmp_path / "looks.jsonl", "candidates"), tmp_path / "candidates"
        return train_candidates(config, few.catalogue, few.log, few.knowledge, 2, folder, ledger, choice)

    first = run().markdown()
    lines = first.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| DIN (target attention) (default)", "| boosted trees"]
    assert [line.split(" | ")[-1] for line in lines[2:4]] == ["2 |", "1 |"]
    assert lines[2].count("[") == 2
    assert lines[3].count("[") == 0
    assert "times the training of the default" in lines[-1]
    assert len((tmp_path / "looks.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(study, "fit", None)
    assert run().markdown() == first
    assert len((tmp_path / "looks.jsonl").read_text().splitlines()) == 2
