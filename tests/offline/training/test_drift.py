"""Drift: the profile of a training, and each sentence by its rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline.data.files import write_json
from offline.training.drift import drift, former_report, profile
from offline.training.samples import split_samples
from offline.training.scores import score_buckets
from offline.training.slices import slice_masks
from tests.offline.training.reports import report_of
from tests.synthetic import SCHEMA, synthetic

SCORE = np.linspace(0.1, 0.9, 1200, dtype=np.float32)
PROFILE = {
    "interactions": 1000.0,
    "earlier interactions, median": 20.0,
    "liked, of train samples": 0.5,
    "items that training never saw, of test samples": 0.1,
    "train samples": 80.0,
    "validation samples": 10.0,
    "test samples": 10.0,
    "test AUC": 0.75,
    "test LogLoss": 0.55,
}
FORMER = asdict(report_of(profile=PROFILE, calibration=score_buckets(np.ones(1200, np.float32), SCORE)))


def sentences(changes: Mapping[str, float], score: np.ndarray = SCORE, former: Any = FORMER) -> list[str]:
    """What is said if the profile has ``changes``."""
    said: list[str] = drift(former, report_of(profile={**PROFILE, **changes}), score)["sentences"]
    return said


def test_the_profile_counts_what_a_training_saw(tmp_path: Path) -> None:
    data = synthetic(tmp_path)
    splits, labels = split_samples(data.config.samples, data.log), data.log.value > SCHEMA.liked_above
    rows = splits.rows["test"]
    masks = slice_masks(data.log, splits.trained_rows, rows)
    numbers = profile(data.log, splits, labels.astype(np.float32), np.full(len(rows), 0.25, np.float32), masks)
    assert (numbers["interactions"], numbers["users"], numbers["items"]) == (1800, 60, 40)
    assert numbers["liked, of test samples"] == pytest.approx(labels[rows].mean())
    assert numbers["earlier interactions, median"] == pytest.approx(16, abs=1)
    assert numbers["users that training never saw, of test samples"] == 0
    assert (numbers["mean test score"], numbers["test AUC"]) == (0.25, 0.5)
    undefined = profile(data.log, splits, np.ones(len(labels), np.float32), np.ones(len(rows), np.float32), {})
    assert "test AUC" not in undefined


def test_nothing_is_said_if_nothing_moved() -> None:
    moved = drift(FORMER, report_of(profile=PROFILE | {"a later number": 1.0}), SCORE)
    assert moved["sentences"] == []
    assert moved["stability"] == pytest.approx(0, abs=1e-6)
    assert moved["artifact"] == FORMER["artifact"]
    assert [row["name"] for row in moved["rows"]] == list(PROFILE)
    little = {"liked, of train samples": 0.54, "test LogLoss": 0.559, "test AUC": 0.741, "interactions": 1100.0}
    assert sentences(little) == []
    assert sentences({"test LogLoss": 0.4, "test AUC": 0.9}) == [], "better is no warning"


def test_what_moved_is_said() -> None:
    assert sentences({"interactions": 900.0}) == [
        "the log has fewer interactions, 900, than at the last training, 1,000: it was loaded anew"
    ]
    assert sentences({"test LogLoss": 0.57}) == [
        "test LogLoss rose from 0.5500 to 0.5700: see whether the share liked or unseen items explain it"
    ]
    assert sentences({"test AUC": 0.73}) == ["test AUC fell from 0.7500 to 0.7300: see which of the slices lost"]
    assert sentences({"liked, of train samples": 0.4}) == ["liked, of train samples: 40.0%, at the last training 50.0%"]
    unseen = "items that training never saw, of test samples"
    assert sentences({unseen: 0.2}) == [f"{unseen}: 20.0%, at the last training 10.0%"]
    for median in (15.0, 26.0):
        said = sentences({"earlier interactions, median": median})
        assert said == [f"the median sample has {median:.4g} earlier interactions of its user, 20 before"]


def test_scores_that_moved_are_said() -> None:
    (said,) = sentences({}, SCORE / 2)
    assert said.startswith("the test scores are distributed otherwise (population stability index ")
    few = np.random.default_rng(0).choice(SCORE, 12)
    assert drift(FORMER, report_of(profile=PROFILE), few)["stability"] > 0.2
    assert sentences({}, few) == [], "twelve samples may look like that by chance"


def test_another_split_is_said_first() -> None:
    said = sentences({"test AUC": 0.7}, former={**FORMER, "split": "by users"})
    assert said[0] == (
        "the samples are split otherwise: by global time, 10% of them for the test; before, by users, 10%"
    )
    assert len(said) == 2
    assert sentences({"test samples": 5.0}) == [
        "the samples are split otherwise: by global time, 5% of them for the test; before, by global time, 10%"
    ]


def test_another_architecture_is_said() -> None:
    assert sentences({}, former={**FORMER, "architecture": "lifelong"}) == [
        "another architecture is served: din, before lifelong"
    ]


def test_no_former_report_is_no_drift(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert former_report(path) == {}
    path.write_text("{ half", encoding="utf-8")
    assert former_report(path) == {}
    path.write_text("[1]", encoding="utf-8")
    assert former_report(path) == {}
    for other in (
        {name: value for name, value in FORMER.items() if name != "profile"},
        {**FORMER, "calibration": [{"at": 0.5}]},
        {**FORMER, "calibration": [], "profile": {}},
        {**FORMER, "calibration": []},
        {**FORMER, "profile": {"interactions": "many"}},
    ):
        write_json(path, other)
        assert former_report(path) == {}
    assert drift({}, report_of(), SCORE) == {}
    write_json(path, {**FORMER, "a field": "of a later version"})
    assert drift(former_report(path), report_of(profile=PROFILE), SCORE)["sentences"] == []
