"""Scores of the CTR model: the served artifact's, on its own samples; what no longer fits it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models.contract.events import Interaction
from offline.data.catalogue import DataError
from offline.jobs.steps import Job
from offline.knowledge.vectors import Knowledge, Lineage
from offline.metrics import auc
from offline.publish.release import read_model
from offline.reranking.ctr import ctr_scores, refuse_another_live_model, trained_report
from offline.training.artifact import as_request
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, split_samples
from offline.training.validation import trained_splits
from tests.offline.pipeline import Pipeline
from tests.offline.reranking.trained import TrainedJob


@pytest.fixture
def copy(original: TrainedJob, tmp_path: Path) -> TrainedJob:
    """The same in a folder of its own, for tests that change files."""
    shutil.copytree(original.job.config.workdir, tmp_path / "work")
    config = original.job.config.model_copy(update={"workdir": tmp_path / "work"})
    return replace(original, job=Job(config, tmp_path / "data"))


def test_scores_are_those_of_the_artifact_that_is_served(original: TrainedJob) -> None:
    rows = trained_splits(original.job.config.samples, original.log, original.report).rows["validation"]
    artifact = original.job.models / original.report.artifact
    session = ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    encoder = SampleEncoder(
        read_model(artifact).feature_schema,
        original.catalogue, original.log, original.knowledge(), original.report.trained_rows,
    )  # fmt: skip
    served = []
    for row in rows:
        tensors = encoder.tensors(np.array([row]))
        feed = {name: array for name, array in as_request(tensors, tensors).items() if name in names(session)}
        (outcome, *_) = session.run(None, feed)
        served.append(float(np.asarray(outcome).ravel()[0]))
    scores = original.scores()
    np.testing.assert_allclose(scores.of(rows), served, atol=1e-5)
    np.testing.assert_allclose(scores.of(rows[::-1])[::-1], served, atol=1e-5)
    assert auc(encoder.labels[rows], scores.of(rows)) == pytest.approx(
        original.report.metrics["validation_auc"], abs=1e-6
    )


def names(session: ort.InferenceSession) -> set[str]:
    return {entry.name for entry in session.get_inputs()}


def test_the_model_is_named_by_its_artifact(original: TrainedJob) -> None:
    scores = original.scores()
    assert scores.fitted_to.artifact_sha256 == original.report.sha256 == scores.circumstances
    assert scores.model == f"synthetic-din {original.report.model_version}"


def test_what_arrived_after_the_training_is_in_no_split_and_changes_no_score(original: TrainedJob) -> None:
    late = [(f"u{at}", f"i{at}", 10**12 + at) for at in range(12)] + [("newcomer", "i1", 10**12)]
    events = [Interaction(user_id=user, item_id=item, value=5.0, time_ms=time) for user, item, time in late]
    grown, added = original.log.extended(events, "1-0")
    assert added == 13
    config = original.job.config.samples
    splits, before = (trained_splits(config, log, original.report) for log in (grown, original.log))
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(splits.rows[split], before.rows[split])
    assert split_samples(config, grown).trained_rows != splits.trained_rows, "a split of the grown log is another"
    rows = splits.rows["validation"]
    np.testing.assert_array_equal(original.scores(grown).of(rows), original.scores().of(rows))


def test_without_a_trained_model_it_says_what_to_run(copy: TrainedJob) -> None:
    assert trained_report(copy.job).sha256 == copy.report.sha256
    (copy.job.models / "report.json").unlink()
    with pytest.raises(DataError, match=r"served, and none is trained yet: run `refresh` first"):
        trained_report(copy.job)


def test_an_artifact_of_another_training_is_refused(copy: TrainedJob) -> None:
    path = copy.job.models / copy.report.artifact
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"is not the model of the last training: run `refresh --retrain`"):
        trained_report(copy.job)


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_weights_of_another_model_are_refused(copy: TrainedJob, damage: str) -> None:
    import torch

    path = copy.job.models / f"{copy.report.artifact}.pt"
    if damage == "gone":
        path.unlink()
    else:
        weights = torch.load(path, weights_only=True)
        torch.save({name: value * 2 for name, value in weights.items()}, path)
    with pytest.raises(DataError, match=r"weights beside .* run `refresh --retrain`"):
        copy.scores()


def test_another_split_is_refused(original: TrainedJob) -> None:
    config = original.job.config.samples.model_copy(update={"min_history": 5})
    with pytest.raises(DataError, match=r"trained on other samples than .* run `refresh` first"):
        trained_splits(config, original.log, original.report)
    shorter = replace(original.report, log_rows=original.report.log_rows - 40)
    with pytest.raises(DataError, match="run `refresh` first"):
        trained_splits(original.job.config.samples, original.log, shorter)


def without_a_field(trained_job: TrainedJob) -> Job:
    schema = trained_job.job.config.feature_schema
    fewer = schema.model_copy(update={"user_fields": schema.user_fields[:1]})
    return replace(trained_job.job, config=trained_job.job.config.model_copy(update={"feature_schema": fewer}))


def with_wider_embeddings(trained_job: TrainedJob) -> Job:
    training = trained_job.job.config.training.model_copy(update={"embedding_dim": 12})
    return replace(trained_job.job, config=trained_job.job.config.model_copy(update={"training": training}))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [(without_a_field, "another feature schema"), (with_wider_embeddings, r"another \[training\]")],
)
def test_another_configuration_is_refused(
    original: TrainedJob, changed: Callable[[TrainedJob], Job], reason: str
) -> None:
    with pytest.raises(DataError, match=rf"{reason}.* run `refresh`"):
        ctr_scores(changed(original), original.catalogue, original.log, original.knowledge(), original.report)


def test_knowledge_in_another_space_is_refused(copy: TrainedJob) -> None:
    produced = copy.knowledge().produced["text"]
    assert produced.items is not None
    space = produced.items.space.model_copy(update={"components": {"made": "otherwise"}})
    moved = replace(produced, items=replace(produced.items, space=space), lineage=Lineage.of(copy.log))
    moved.save(copy.job.knowledge / "text")
    with pytest.raises(DataError, match=r"other spaces than the knowledge on disk holds \(item/text\): run `refresh`"):
        copy.scores()


def test_knowledge_that_is_gone_is_refused(original: TrainedJob) -> None:
    some = Knowledge({"text": original.knowledge().produced["text"]})
    with pytest.raises(DataError, match=r"\(item/marc, user/liber, user/marc\): run `refresh` first"):
        ctr_scores(original.job, original.catalogue, original.log, some, original.report)


def test_a_live_release_of_another_model_is_refused(installed: Pipeline) -> None:
    report = TrainingReport.load(installed.job.models / "report.json")
    refuse_another_live_model(installed.job, report)
    retrained = replace(report, sha256="0" * 64, artifact="small-000000000000.onnx")
    with pytest.raises(DataError, match=r"is live with another CTR model than small-0+\.onnx.*publish --return"):
        refuse_another_live_model(installed.job, retrained)


def test_nothing_live_is_no_obstacle(fresh: Pipeline, original: TrainedJob) -> None:
    refuse_another_live_model(fresh.job, original.report)
