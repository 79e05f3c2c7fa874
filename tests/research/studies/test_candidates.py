"""Every candidate in full beside the trees: trained once, told on the test samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.schema import RunningSpec
from offline.data.catalogue import DataError
from offline.data.files import write_arrays
from offline.jobs.steps import Job
from offline.training.candidates import Choice, settings_of, specs
from offline.training.report import TrainingReport
from research.studies import candidates as studies
from research.studies.candidates import CandidateStudy, OtherModel, other_model, train_candidates
from research.test_set_ledger import Ledger
from tests.synthetic import SCHEMA, job_config, synthetic


def test_candidates_are_trained_once_and_compared_with_the_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = synthetic(tmp_path, users=30, items=15, events=14)
    config = job_config(tmp_path, tree={"trees": 10, "leaves": 4}, choice={"candidates": ("tree", "dcnv2", "din")})
    running = SCHEMA.model_copy(update={"running": RunningSpec()})
    config = config.model_copy(update={"feature_schema": running})
    rows = [{"architecture": name, "milliseconds": 1.0, "seconds": 3.0} for name in ("tree", "din")]
    rows.append({"architecture": "dcnv2", "milliseconds": 9.0})
    choice = Choice("din", settings_of(config), 200, "auto serves DIN: the lowest LogLoss", 8.0, rows)
    monkeypatch.setattr(studies, "choose", lambda *_: choice)

    def run() -> CandidateStudy:
        ledger, folder = Ledger(tmp_path / "looks.jsonl", "candidates"), tmp_path / "candidates"
        return train_candidates(config, few.catalogue, few.log, few.knowledge, 2, folder, ledger)

    study = run()
    first = study.markdown()
    lines = first.splitlines()
    names = ["| DIN (target attention) (default)", "| boosted trees", "| DCNv2"]
    assert [line.split(" | ")[0] for line in lines[2:5]] == names
    assert [line.split(" | ")[-1] for line in lines[2:4]] == ["2 |", "1 |"]
    assert lines[4].startswith("| DCNv2 | too slow |")
    assert lines[2].count("[") == 2
    assert lines[3].count("[") == 0
    assert "times the training of the default" in lines[-1]
    assert len((tmp_path / "looks.jsonl").read_text().splitlines()) == 2
    compared = replace(study, other=OtherModel("larger", study.candidates[0].scores[1])).markdown().splitlines()
    assert compared[:-2] == lines
    assert compared[-1].startswith("The model of the configuration larger, one seed, has AUC ")
    monkeypatch.setattr(studies, "choose", None)
    monkeypatch.setattr(studies, "fit", None)
    assert run().markdown() == first
    assert len((tmp_path / "looks.jsonl").read_text().splitlines()) == 2


def test_the_model_of_another_configuration_is_that_of_its_last_training(tmp_path: Path) -> None:
    job, label = Job(job_config(tmp_path), tmp_path), np.asarray([0.0, 1.0], np.float32)
    job.models.mkdir(parents=True)
    report = TrainingReport(2, 1, 0, {}, "a.onnx", "", "", 0.0, {}, [], architecture="din")
    report.save(job.models / "report.json")
    served = specs(job.config)[0].label
    score = np.asarray([0.1, 0.8], np.float32)
    write_arrays(job.models / "test_predictions.npz", label=label, **{f"{served}/seed1": score})
    assert other_model(job, label).name == "synthetic"
    np.testing.assert_array_equal(other_model(job, label).score, score)
    with pytest.raises(DataError, match="the test samples of synthetic are others"):
        other_model(job, label[::-1])
