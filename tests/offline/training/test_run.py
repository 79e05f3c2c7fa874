"""A whole training: the report, the artifact and its manifest, the served model read back, producers left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.contract.artifact import ArtifactManifest
from models.contract.encoding import Tensors, model_inputs
from models.contract.schema import RunningSpec
from models.ctr.build import reads
from models.ctr.split import rehearse
from models.onnx_runtime import onnx_runtime
from models.split_model import SplitModel, parts_folder
from offline.data.arrival import draw_negatives
from offline.data.config import LabelsConfig
from offline.data.files import file_digest, read_arrays
from offline.knowledge.vectors import Knowledge
from offline.training.artifact import Artifact, as_request, write_artifact
from offline.training.candidates import TREE, specs
from offline.training.fit import predict
from offline.training.lifelong import as_torch
from offline.training.page import page
from offline.training.report import PAGE_FILE, TrainingReport, markdown
from offline.training.run import encoders, load_served, train
from offline.training.samples import SampleEncoder, split_samples
from offline.training.validation import popularity_scores
from tests.plain_inputs import INPUTS
from tests.synthetic import SCHEMA, Synthetic, job_config, synthetic

RUNNING = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=(1.0, 30.0))})


@dataclass(frozen=True)
class Trained:
    data: Synthetic
    report: TrainingReport
    folder: Path
    encoder: SampleEncoder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    data = synthetic(folder)
    data = replace(data, config=job_config(folder, compare=True, seeds=(1, 2)))
    report = train(data.config, data.catalogue, data.log, data.knowledge, folder / "models")
    splits = split_samples(data.config.samples, data.log)
    encoder = SampleEncoder(SCHEMA, data.catalogue, data.log, data.knowledge, splits.trained_rows)
    return Trained(data, report, folder / "models", encoder)


def test_the_report_describes_what_was_trained(trained: Trained) -> None:
    report, splits = trained.report, split_samples(trained.data.config.samples, trained.data.log)
    assert report.log_rows == len(trained.data.log)
    assert report.samples == {name: len(rows) for name, rows in splits.rows.items()}
    assert report.trained_rows == splits.trained_rows
    assert report.trained_until_ms == trained.data.log.time_ms[splits.trained_rows - 1]
    assert report.parity < 1e-5
    assert set(report.metrics) == {"validation_auc", "test_auc"}
    assert [row["model"] for row in report.table] == [
        "DIN (target attention) + knowledge", "DIN (target attention), no knowledge", "DCNv2 + knowledge",
        "DeepFM + knowledge", "boosted trees", "popularity (share of likes)",
    ]  # fmt: skip


def test_the_page_and_what_it_shows_lie_beside_the_report(trained: Trained) -> None:
    report = trained.report
    assert (trained.folder / PAGE_FILE).read_text(encoding="utf-8") == page(report)
    assert [row["model"] for row in report.rivals] == [row["model"] for row in report.table[1:]]
    against = {row["model"]: row for row in report.rivals}
    assert against[TREE]["auc"] == pytest.approx(report.table[0]["difference"])
    assert against[TREE]["logloss"] == pytest.approx(report.table[0]["logloss_difference"])
    assert report.rivals[0]["auc"] == pytest.approx(report.table[0]["knowledge_difference"])
    assert [set(epoch) for epoch in report.epochs] == [{"logloss", "auc"}]
    assert report.drift == {}, "the first training"
    assert "tree" in report.slices[0]
    assert report.slices[0]["samples"] == report.samples["test"]


def test_the_report_reads_back(trained: Trained) -> None:
    read = TrainingReport.load(trained.folder / "report.json")
    assert replace(read, table=[]) == replace(trained.report, table=[])
    assert markdown(read.table) == markdown(trained.report.table)


def test_the_table_in_markdown(trained: Trained) -> None:
    lines = markdown(trained.report.table).splitlines()
    assert len(lines) == 2 + len(trained.report.table)
    middle, low, high = trained.report.table[0]["difference"]
    assert f"{middle:+.4f} [{low:+.4f}, {high:+.4f}]" in lines[2]
    assert "knowledge_difference" not in trained.report.table[1]
    assert "difference" not in trained.report.table[-1]
    assert lines[0].endswith("| AUC against no knowledge [95 %] |")


def test_the_artifact_carries_its_manifest(trained: Trained) -> None:
    artifact = (trained.folder / trained.report.artifact).read_bytes()
    assert hashlib.sha256(artifact).hexdigest() == trained.report.sha256
    assert trained.report.artifact == f"synthetic-{trained.report.sha256[:12]}.onnx"
    session = onnx_runtime().InferenceSession(artifact, providers=["CPUExecutionProvider"])
    manifest = ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map)
    assert manifest.feature_schema.fingerprint == SCHEMA.fingerprint
    assert manifest.spaces == trained.data.knowledge.spaces
    assert manifest.inputs == reads("din", SCHEMA)
    assert manifest.model.version == trained.report.model_version
    assert manifest.metrics == trained.report.metrics


def test_the_parts_lie_beside_the_artifact(trained: Trained) -> None:
    folder = parts_folder(trained.folder / trained.report.artifact)
    assert trained.report.parts == {path.name: file_digest(path) for path in folder.iterdir()}
    content = (trained.folder / trained.report.artifact).read_bytes()
    rehearse(content, folder)
    model = SplitModel.open(folder, 1)
    assert model.artifact.model.version == trained.report.model_version


def test_a_model_whose_parts_score_otherwise_has_none(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.ctr.split.TOLERANCE", -1.0)
    content = (trained.folder / trained.report.artifact).read_bytes()
    artifact = write_artifact("synthetic", content, tmp_path)
    assert artifact.unsplit.startswith("scores of its parts differ by")
    assert artifact == Artifact(trained.report.artifact, trained.report.sha256, {}, artifact.unsplit)
    assert [path.name for path in tmp_path.iterdir()] == [artifact.name]


def test_the_served_model_reads_back_and_agrees_with_the_artifact(trained: Trained) -> None:
    model = load_served(trained.data.config, trained.report, trained.encoder, trained.folder)
    rows = split_samples(trained.data.config.samples, trained.data.log).rows["test"]
    request = as_request(trained.encoder.tensors(rows[:1]), trained.encoder.tensors(rows[:30]))
    scores = scores_of(trained.folder / trained.report.artifact, request)
    with torch.inference_mode():
        expected = torch.sigmoid(model({name: torch.from_numpy(array) for name, array in request.items()})).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert as_torch(trained.encoder.tensors(rows[:1]))["item_index"].shape == (1,)


def scores_of(artifact: Path, request: Tensors) -> np.ndarray:
    session = onnx_runtime().InferenceSession(artifact, providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(["score"], {node.name: request[node.name] for node in session.get_inputs()})[0]
    return scores


def test_test_predictions_are_kept(trained: Trained) -> None:
    predictions = read_arrays(trained.folder / "test_predictions.npz")
    rows = split_samples(trained.data.config.samples, trained.data.log).rows["test"]
    np.testing.assert_array_equal(predictions["rows"], rows)
    np.testing.assert_array_equal(predictions["label"], trained.encoder.labels[rows])
    np.testing.assert_array_equal(predictions["baseline"], popularity_scores(trained.encoder, rows))
    model = load_served(trained.data.config, trained.report, trained.encoder, trained.folder)
    best = [predictions[f"{specs(trained.data.config)[0].label}/seed{seed}"] for seed in (1, 2)]
    served = predict(model, trained.encoder, rows)
    assert any(np.array_equal(scores, served) for scores in best)
    assert len(predictions) == 3 + 4 * 2 + 1


def test_the_table_shows_every_model_against_the_one_without_knowledge(trained: Trained) -> None:
    """The difference is that of the seeds' mean AUC, and lies in its interval. So are those against the trees, and
    theirs against the baseline."""
    rows = {row["model"]: row for row in trained.report.table}
    plain, baseline = rows["DIN (target attention), no knowledge"], rows["popularity (share of likes)"]
    trees = rows["boosted trees"]
    differences = {"difference": "auc", "logloss_difference": "logloss", "knowledge_difference": "auc"}
    compared = 0
    for row in trained.report.table:
        for name, measure in differences.items():
            if name not in row:
                continue
            against = plain if name == "knowledge_difference" else baseline if row is trees else trees
            middle, low, high = row[name]
            assert middle == pytest.approx(row[measure] - against[measure])
            assert low < middle < high
            compared += 1
    assert compared == 5 * 2 + 3


def test_each_choice_of_producers_has_an_encoder(trained: Trained) -> None:
    data = trained.data
    encoder_of = encoders(data.config, data.catalogue, data.log, data.knowledge, 500)
    assert list(encoder_of) == [spec.label for spec in specs(data.config)]
    for spec in specs(data.config):
        assert encoder_of[spec.label].schema.knowledge == (SCHEMA.knowledge if spec.producers is None else ())
    assert len(set(map(id, encoder_of.values()))) == 3  # with knowledge, without, and with running features


def test_producers_may_be_left_out(tmp_path: Path) -> None:
    """The schema wants text and LIBER; LIBER never finished, and there is knowledge that the schema does not list."""
    few = synthetic(tmp_path, users=20, items=15, events=14)
    config = few.config.model_copy(update={"feature_schema": SCHEMA.with_knowledge(("text", "liber"))})
    knowledge = Knowledge({name: few.knowledge.produced[name] for name in ("text", "marc")})
    splits = split_samples(config.samples, few.log)
    assert len(splits.rows["validation"]) < 50  # few rows are enough, too
    report = train(config, few.catalogue, few.log, knowledge, tmp_path / "models")
    assert report.parity < 1e-5
    session = onnx_runtime().InferenceSession(tmp_path / "models" / report.artifact, providers=["CPUExecutionProvider"])
    manifest = ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map)
    assert manifest.feature_schema == SCHEMA.with_knowledge(("text",))
    assert [space.key for space in manifest.spaces] == ["item/text"]
    assert manifest.inputs == reads("din", SCHEMA.with_knowledge(("text",)))
    assert "user_vectors" not in manifest.inputs
    encoder = encoders(config, few.catalogue, few.log, knowledge, splits.trained_rows)[specs(config)[0].label]
    model = load_served(config, report, encoder, tmp_path / "models")
    assert np.isfinite(predict(model, encoder, splits.rows["test"])).all()


def test_no_producer_at_all(tmp_path: Path) -> None:
    few = synthetic(tmp_path, users=20, items=15, events=14)
    schema = encoders(few.config, few.catalogue, few.log, Knowledge({}), 200)[specs(few.config)[0].label].schema
    assert schema == SCHEMA.with_knowledge(())
    assert model_inputs(schema) == tuple(name for name in INPUTS if "vectors" not in name and "partition" not in name)


def test_a_model_of_whole_histories_is_trained_and_exported(tmp_path: Path) -> None:
    """With the knowledge and the running features of its schema; its artifact takes histories of any length."""
    few = synthetic(tmp_path, users=20, items=15, events=14)
    own = {"tokens": 200, "process_epochs": 1, "folds": 2, "factors": 4}
    config = job_config(tmp_path, served="lifelong", lifelong=own).model_copy(update={"feature_schema": RUNNING})
    report = train(config, few.catalogue, few.log, few.knowledge, tmp_path / "models")
    assert [row["model"] for row in report.table] == [
        "whole histories + knowledge",
        "boosted trees",
        "popularity (share of likes)",
    ]
    assert report.parity < 1e-5
    splits = split_samples(config.samples, few.log)
    encoder = encoders(config, few.catalogue, few.log, few.knowledge, splits.trained_rows)[specs(config)[0].label]
    model = load_served(config, report, encoder, tmp_path / "models")
    rows = np.concatenate([splits.rows["train"][:20], splits.rows["test"]])
    scores = answers_of_both(model, encoder, rows, tmp_path / "models" / report.artifact)
    assert len(set(scores.tolist())) > 1
    lengths = {int(encoder.tensors(rows[at : at + 1])["history_mask"].sum()) for at in range(len(rows))}
    assert {3, SCHEMA.history_length} <= lengths


def answers_of_both(model: torch.nn.Module, encoder: SampleEncoder, rows: np.ndarray, artifact: Path) -> np.ndarray:
    """Scores of the rows, in windows as the service has them: torch's, which the artifact's equal."""
    with torch.inference_mode():
        expected: np.ndarray = torch.sigmoid(model(as_torch(encoder.tensors(rows)))).numpy()
    session = onnx_runtime().InferenceSession(artifact, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for row, score in zip(rows, expected, strict=True):
        request = encoder.tensors(np.array([row]))
        answer = session.run(["score"], {name: request[name] for name in names})[0]
        np.testing.assert_allclose(answer, [score], atol=1e-5)
    return expected


@pytest.mark.parametrize("served", ["din", "tree"])
def test_models_with_running_features_are_trained_and_exported(tmp_path: Path, served: str) -> None:
    few = synthetic(tmp_path, users=20, items=15, events=14)
    plain = job_config(tmp_path, tree={"trees": 5, "leaves": 4, "least_samples": 2})
    training = plain.training.model_copy(update={"served": served})
    config = plain.model_copy(update={"feature_schema": RUNNING, "training": training})
    report = train(config, few.catalogue, few.log, few.knowledge, tmp_path / "models")
    assert report.parity < 1e-5
    splits = split_samples(config.samples, few.log)
    encoder = encoders(config, few.catalogue, few.log, few.knowledge, splits.trained_rows)[specs(config)[0].label]
    model = load_served(config, report, encoder, tmp_path / "models")
    scores = answers_of_both(model, encoder, splits.rows["test"][:40], tmp_path / "models" / report.artifact)
    assert len(set(scores.tolist())) > 1


def test_popularity_is_no_baseline_where_it_draws_the_negatives(tmp_path: Path) -> None:
    few = synthetic(tmp_path, users=20, items=15, events=14)
    labels = LabelsConfig(kind="implicit", negatives=2)
    assert labels.draws_by_popularity
    config = few.config.model_copy(update={"data": few.config.data.model_copy(update={"labels": labels})})
    log = draw_negatives(labels, few.log, SCHEMA.liked_above)
    report = train(config, few.catalogue, log, Knowledge({}), tmp_path / "models")
    assert report.table[-1]["model"] == "chance (negatives are drawn by popularity)"
    assert report.table[-1]["auc"] == 0.5
    middle = report.table[-2]["difference"][0]
    assert middle == pytest.approx(report.table[-2]["auc"] - 0.5, abs=1e-6)
    page = markdown(report.table, report.notes)
    assert "so that popularity says nothing here; chance is the baseline." in page


@pytest.mark.parametrize(("kind", "drawn"), [("threshold", "popularity"), ("implicit", "uniform")])
def test_popularity_is_the_baseline_elsewhere(kind: Any, drawn: Any) -> None:
    settings = {"kind": kind} if kind == "threshold" else {"kind": kind, "drawn": drawn}
    assert not LabelsConfig.model_validate(settings).draws_by_popularity


def test_the_share_of_repeats_is_told(trained: Trained) -> None:
    log = trained.data.log
    rows = split_samples(trained.data.config.samples, log).rows["test"].tolist()
    pairs = list(zip(log.user.tolist(), log.item.tolist(), strict=True))
    share = sum(pairs[row] in pairs[:row] for row in rows) / len(rows)
    assert trained.report.notes[0] == f"{share:.1%} of the test interactions repeat an item of their user"
    assert 0 < share < 1
