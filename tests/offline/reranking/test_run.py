"""The job as a whole, on a small data set and a tiny model: what it writes, from which samples, and only once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import FloatArray, IntArray
from models.contract.prompts import PromptParts
from models.contract.rerank_items import RerankItems
from models.contract.reranker import FILE, ITEMS_FILE, RerankerManifest
from offline.data.catalogue import DataError
from offline.jobs.ledger import RunLedger
from offline.jobs.runs import Run
from offline.metrics import auc
from offline.reranking import run as job
from offline.reranking import tune as tuning
from offline.reranking.calibrate import best_weight, platt, probability_of
from offline.reranking.ctr import CtrScores
from offline.reranking.prepared import SELECTIONS, Prepared
from offline.reranking.run import tune_reranker
from tests.offline.reranking.conftest import Tuned


@pytest.fixture
def ready(tuned: Tuned, cheap: None) -> Prepared:
    return tuned.ready()


def test_the_manifest_lies_beside_a_checkpoint_that_answers_as_it_says(tuned: Tuned, ready: Prepared) -> None:
    manifest = RerankerManifest.from_json((ready.folder / FILE).read_bytes())
    assert manifest == tuned.manifest
    model = ready.tuned()
    assert manifest.model == model.id
    assert manifest.label_ids == ready.labels

    def answers(prompts: Sequence[PromptParts]) -> FloatArray:
        probabilities = np.zeros(len(prompts), np.float32)
        for rows, odds in model.log_odds(prompts, manifest.label_ids):
            probabilities[rows] = probability_of(odds)
        return probabilities

    asked = [tuple(answers(canary.prompts)) for canary in manifest.canaries]
    assert asked
    assert manifest.broken(asked) == ""
    np.testing.assert_allclose(asked, [canary.probabilities for canary in manifest.canaries], atol=1e-4)


def test_the_items_are_the_ones_that_the_manifest_names(tuned: Tuned, ready: Prepared) -> None:
    content = (ready.folder / ITEMS_FILE).read_bytes()
    items = RerankItems.unpack(content, tuned.manifest.items)
    assert tuple(items.ids) == ready.log.item_ids
    np.testing.assert_array_equal(items.vectors, ready.prompts.items.vectors)
    assert hashlib.sha256(content).hexdigest() == tuned.manifest.items


def test_labels_are_those_of_the_protocol(ready: Prepared) -> None:
    liked = ready.log.value[:50] > ready.config.feature_schema.liked_above
    assert ready.label(np.arange(50)).tolist() == liked.astype(float).tolist()


def test_calibration_and_weight_come_from_validation_samples_and_the_served_model(
    tuned: Tuned, ready: Prepared
) -> None:
    rows, how = ready.rows("validation"), ready.prompt.selection
    raw = ready.log_odds(ready.tuned(), how, rows, "tuned")
    calibration = platt(raw, ready.label(rows))
    assert tuned.manifest.calibration == calibration
    ctr = job.ctr_of(tuned.job, ready)
    scores = ctr.of(rows)
    assert tuned.manifest.weight == best_weight(ready.label(rows), scores, calibration.log_odds(raw))
    assert tuned.manifest.fitted_to == ctr.fitted_to
    assert ctr.fitted_to.artifact_sha256 == tuned.report.sha256
    assert tuned.manifest.metrics[f"validation AUC, {ctr.model}"] == auc(ready.label(rows), scores)


def test_the_ctr_model_scores_validation_samples_alone(
    tuned: Tuned, cheap: None, ready: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, scored = CtrScores.of, []

    def noted(ctr: CtrScores, rows: IntArray) -> FloatArray:
        scored.append(rows)
        return real(ctr, rows)

    monkeypatch.setattr(CtrScores, "of", noted)
    run = Run(tuned.job, "tune-reranker")
    with run.working():
        tune_reranker(run)
    assert [rows.tolist() for rows in scored] == [ready.rows("validation").tolist()]


def test_without_a_trained_model_nothing_is_tuned(
    tuned: Tuned, cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "data", None)
    config = tuned.job.config.model_copy(update={"workdir": tmp_path / "empty"})
    with pytest.raises(DataError, match="run `refresh` first"):
        tune_reranker(Run(replace(tuned.job, config=config), "tune-reranker"))


def test_no_prompt_about_a_test_sample_was_read(tuned: Tuned, ready: Prepared) -> None:
    for how in SELECTIONS:
        keys = {
            split: {
                hashlib.sha256(str(prompt).encode()).hexdigest()[:32]
                for prompt in ready.prompts.of_rows(ready.prompt_for(how), ready.rows(split))
            }
            for split in ("validation", "test")
        }
        assert keys["validation"] <= tuned.read
        assert not (keys["test"] - keys["validation"]) & tuned.read


def test_tuning_reads_training_samples_in_both_ways(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(labeller: object, tokens: Sequence[list[int]], answers: FloatArray, *_: object) -> list[float]:
        seen.extend((len(tokens), len(answers)))
        return []

    monkeypatch.setattr(job, "tune", noted)
    job._tuned(ready)
    rows = ready.rows("train")
    assert seen == [2 * len(rows)] * 2
    assert rows.max() < ready.splits.trained_rows


def test_a_second_run_reads_and_trains_nothing(tuned: Tuned, cheap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "adapted", None)
    monkeypatch.setattr("offline.reranking.scoring.Labeller.log_odds", None)
    monkeypatch.setattr("offline.training.run.fit", None)
    run = Run(tuned.job, "tune-reranker")
    with run.working():
        assert tune_reranker(run) == tuned.manifest
    entry = RunLedger(tuned.job.config.workdir).runs()[-1].document()
    assert (entry["job"], entry["status"]) == ("tune-reranker", "done")
    assert list(entry["stages"])[-1] == "calibrate"


def test_without_peft_it_says_what_to_install(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="lora"):
        tune_reranker(Run(tuned.job, "tune-reranker"))
