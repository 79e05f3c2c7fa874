"""Parts of the samples with one label: what is not defined is said so, and the model is trained and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from models.contract.artifact import ArtifactManifest
from offline.data.log import InteractionLog
from offline.publish.release import read_model
from offline.training.report import TrainingReport, markdown
from offline.training.run import train
from offline.training.samples import one_label_warnings, split_samples
from tests.synthetic import Synthetic, job_config, synthetic


def all_liked(data: Synthetic, from_share: float) -> Synthetic:
    """The data with five stars for everything that happened after so much of the log."""
    value = data.log.value.copy()
    value[int(from_share * len(value)) :] = 5.0
    return replace(data, log=replace(data.log, value=value))


def few(folder: Path) -> Synthetic:
    return synthetic(folder, users=20, items=15, events=14)


def warnings_of(log: InteractionLog, data: Synthetic) -> list[str]:
    liked = (log.value > 3.0).astype(np.float32)
    return one_label_warnings(split_samples(data.config.samples, log), liked)


def test_each_part_of_one_label_is_told(tmp_path: Path) -> None:
    data = few(tmp_path)
    assert warnings_of(data.log, data) == []
    (line,) = warnings_of(all_liked(data, 0.89).log, data)
    assert line.startswith("all 22 test samples are liked: their AUC is undefined")
    none_liked = replace(data.log, value=np.ones_like(data.log.value))
    assert warnings_of(none_liked, data) == [
        "all 220 samples are not liked: a model learns nothing from them, and no AUC is defined (liked_above)"
    ]
    newer = warnings_of(all_liked(data, 0.75).log, data)
    assert [line.split(" (")[0].partition("samples ")[2] for line in newer] == ["are liked: their AUC is undefined"] * 2


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize(
    ("served", "from_share", "defined"),
    [("din", 0.89, {"validation_auc"}), ("din", 0.75, set()), ("din", 0.0, set()), ("lifelong", 0.0, set())],
)
def test_a_model_is_trained_whatever_is_undefined(
    tmp_path: Path, served: str, from_share: float, defined: set[str]
) -> None:
    data = all_liked(few(tmp_path), from_share)
    own = {"tokens": 200, "process_epochs": 1, "folds": 1, "factors": 4}
    config = job_config(tmp_path, served=served, compare=served == "din", lifelong=own)
    report = train(config, data.catalogue, data.log, data.knowledge, tmp_path / "models")
    assert set(report.metrics) == defined
    assert all(row["auc"] is None and row["gauc"] is None and row["logloss"] > 0 for row in report.table)
    assert not any("difference" in row for row in report.table)
    assert "| undefined |" in markdown(report.table)
    json.loads((tmp_path / "models" / "report.json").read_text(), parse_constant=no_constant)
    assert TrainingReport.load(tmp_path / "models" / "report.json") == report
    manifest: ArtifactManifest = read_model(tmp_path / "models" / report.artifact)
    assert set(manifest.metrics) == defined
