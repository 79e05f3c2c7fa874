"""What a report says beyond the quality table, of a training by hand, with trees and a former report."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from models.contract.schema import RunningSpec
from offline.data.files import write_json
from offline.training import diagnosis
from offline.training.candidates import ModelSpec
from offline.training.diagnosis import Judged, diagnose
from offline.training.fit import new_model
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, split_samples
from tests.offline.training.reports import report_of
from tests.synthetic import SCHEMA, synthetic

DIN, PLAIN, TREES = ModelSpec("DIN", "din"), ModelSpec("DIN, no knowledge", "din", ()), ModelSpec("trees", "tree")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Trees know the labels, the served model does not."""
    data = synthetic(tmp_path_factory.mktemp("diagnosis"))
    splits = split_samples(data.config.samples, data.log)
    schema = SCHEMA.model_copy(update={"running": RunningSpec()})
    encoder = SampleEncoder(schema, data.catalogue, data.log, data.knowledge, splits.trained_rows)
    label, generator = encoder.labels[splits.rows["test"]], np.random.default_rng(0)
    noise = generator.uniform(0.2, 0.8, len(label)).astype(np.float32)
    scores = {("DIN", 1): noise, ("DIN, no knowledge", 1): noise, ("trees", 1): 0.4 * label + 0.3}
    model, baseline = (
        new_model(DIN, data.config.training, encoder),
        ("popularity", np.full(len(label), 0.5, np.float32)),
    )
    return Judged(data.config, (DIN, PLAIN, TREES), encoder, splits, model, 1, scores, baseline)


@pytest.fixture(scope="module")
def report(judged: Judged, tmp_path_factory: pytest.TempPathFactory) -> TrainingReport:
    """The second of two trainings: the former had higher scores, and twice as long a log."""
    path = tmp_path_factory.mktemp("former") / "report.json"
    sizes = {f"{split} samples": float(len(rows)) for split, rows in judged.splits.rows.items()}
    former = report_of(
        artifact="former.onnx",
        profile={"interactions": 3600.0, "users": 60.0, **sizes},
        calibration=[{"low": at / 10, "samples": 100, "score": 0.0, "liked": 0.0} for at in range(10)],
    )
    write_json(path, asdict(former))
    return diagnose(report_of(), judged, path)


def test_trees_have_their_column_and_are_a_rival(judged: Judged, report: TrainingReport) -> None:
    assert report.slices[0]["slice"] == "all"
    assert report.slices[0]["tree"] == 1.0
    assert [(rival.model, rival.kind) for rival in judged.rivals()] == [
        ("DIN, no knowledge", "plain"), ("trees", "tree"), ("popularity", "baseline"),
    ]  # fmt: skip
    assert [row["model"] for row in report.rivals] == ["DIN, no knowledge", "trees", "popularity"]
    assert report.rivals[0]["auc"] == [0.0, 0.0, 0.0]
    assert report.verdict.startswith("DIN is worse than popularity (") or report.verdict.startswith("trees beat DIN (")


def test_trees_that_are_served_have_no_column(judged: Judged) -> None:
    served = Judged(
        judged.config, (TREES, DIN), judged.encoder, judged.splits, judged.model, 1, judged.scores, judged.baseline
    )
    assert served.scored().tree is None
    assert [rival.kind for rival in served.rivals()] == ["network", "baseline"]


def test_everything_that_the_page_shows_is_there(judged: Judged, report: TrainingReport) -> None:
    test = judged.splits.rows["test"]
    assert report.data == judged.config.data.source
    assert report.written_ms > 1_700_000_000_000
    assert sum(bucket["samples"] for bucket in report.calibration) == len(test) == sum(report.histogram)
    assert {"item id", "item knowledge", "times and repeats"} <= {row["group"] for row in report.importance}
    assert report.profile["liked, of test samples"] == pytest.approx(judged.encoder.labels[test].mean())
    assert report.table == report_of().table, "the rest is as it was"


def test_drift_is_told_against_the_report_that_lay_there(report: TrainingReport) -> None:
    assert report.drift["artifact"] == "former.onnx"
    assert report.drift["rows"][:2] == [
        {"name": "interactions", "before": 3600.0, "now": 1800.0}, {"name": "users", "before": 60.0, "now": 60.0},
    ]  # fmt: skip
    assert [sentence.split(",")[0].split(" (")[0] for sentence in report.warnings[1:]] == [
        "the log has fewer interactions",
        "the test scores are distributed otherwise",
    ]


def test_circumstances_are_those_of_the_samples(judged: Judged, report: TrainingReport) -> None:
    circumstances = judged.circumstances(report.profile, False)
    assert circumstances.training_samples == len(judged.splits.rows["train"])
    assert (circumstances.read, circumstances.running, circumstances.unseen) == (8, True, 0.0)
    assert circumstances.history == report.profile["earlier interactions, median"]


def test_a_model_that_suffers_from_statistics_that_are_up_to_date_is_told(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As counts made it that said how busy the service was: better on frozen ones, worse once published again."""
    label = judged.encoder.labels[judged.splits.rows["test"]]
    good = replace(judged, scores={**judged.scores, ("DIN", 1): 0.6 * label + 0.2})
    encoders = []

    def worse(model: object, encoder: SampleEncoder, rows: np.ndarray) -> np.ndarray:
        encoders.append(encoder)
        return np.full(len(rows), 0.5, np.float32)

    monkeypatch.setattr(diagnosis, "predict", worse)
    live = diagnosis._live(good)
    assert live["auc"][2] < 0 < live["logloss"][1]
    assert live["sentence"].startswith("DIN suffers when item statistics are brought up to date")
    late = judged.splits.rows["test"][-1:]
    assert (encoders[0].numeric[late] != judged.encoder.numeric[late]).any()
    monkeypatch.setattr(diagnosis, "predict", lambda *_: 0.6 * label + 0.2)
    assert diagnosis._live(good)["sentence"] == ""
