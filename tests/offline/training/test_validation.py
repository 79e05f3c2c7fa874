"""Validation samples: the same for every model, whole users, and scores as torch gives them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from offline.config import JobConfig
from offline.data.catalogue import DataError
from offline.metrics import auc
from offline.training.fit import predict
from offline.training.report import TrainingReport
from offline.training.run import load_served, train
from offline.training.validation import (
    IncomparableError,
    ValidationSamples,
    of_drawn_users,
    popularity_scores,
    trained_splits,
)
from tests.synthetic import Synthetic, synthetic


@dataclass(frozen=True)
class Trained:
    data: Synthetic
    report: TrainingReport
    folder: Path

    @property
    def artifact(self) -> Path:
        return self.folder / self.report.artifact

    def samples(self, config: JobConfig | None = None) -> ValidationSamples:
        data = self.data
        return ValidationSamples.of(config or data.config, data.catalogue, data.log, data.knowledge, self.report)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("validation")
    data = synthetic(folder)
    return Trained(data, train(data.config, data.catalogue, data.log, data.knowledge, folder), folder)


def test_the_samples_are_those_of_the_training(trained: Trained) -> None:
    samples = trained.samples()
    splits = trained_splits(trained.data.config.samples, trained.data.log, trained.report)
    np.testing.assert_array_equal(samples.rows, splits.rows["validation"])
    users = len(np.unique(trained.data.log.user[samples.rows]))
    assert str(samples) == f"162 validation samples of {users} users"


def test_the_file_scores_as_torch_does(trained: Trained) -> None:
    samples = trained.samples()
    model = load_served(trained.data.config, trained.report, samples.encoder, trained.folder)
    expected = auc(samples.encoder.labels[samples.rows], predict(model, samples.encoder, samples.rows))
    measured = samples.auc(trained.artifact)
    assert measured.shape == (1001,)
    assert measured[0] == pytest.approx(expected, abs=1e-4)
    assert measured[0] == pytest.approx(trained.report.metrics["validation_auc"], abs=1e-4)


def test_a_model_of_another_training_has_its_own_embedding_rows(trained: Trained) -> None:
    samples = trained.samples()
    unseen = np.zeros(len(trained.data.log.item_ids), np.int64)
    assert samples.auc(trained.artifact, unseen)[0] != samples.auc(trained.artifact)[0]
    assert samples.encoder.table.index.any(), "the encoder of the samples stays as it was"


def test_popularity_is_the_share_of_likes_of_the_training_period(trained: Trained) -> None:
    samples, log = trained.samples(), trained.data.log
    scores = popularity_scores(samples.encoder, samples.rows)
    past = slice(0, trained.report.trained_rows)
    item, liked = log.item[past], log.value[past] > trained.data.config.feature_schema.liked_above
    share = (np.bincount(item, liked, 40) + 5) / (np.bincount(item, minlength=40) + 10)  # ten prior interactions
    np.testing.assert_allclose(scores, share[log.item[samples.rows]], atol=1e-6)
    assert samples.popularity_auc()[0] == auc(samples.encoder.labels[samples.rows], scores)


def test_large_sets_are_told_by_whole_users() -> None:
    generator = np.random.default_rng(0)
    user = generator.integers(500, size=20_000)
    rows = np.flatnonzero(generator.random(20_000) < 0.5)
    drawn = of_drawn_users(user, rows, 1000)
    chosen = np.unique(user[drawn])
    np.testing.assert_array_equal(drawn, rows[np.isin(user[rows], chosen)])
    assert 1000 <= len(drawn) < 1000 + np.bincount(user[rows]).max()
    np.testing.assert_array_equal(of_drawn_users(user, rows, 1000), drawn)
    assert chosen.max() > 400, "not the first ones"
    np.testing.assert_array_equal(of_drawn_users(user, rows, len(rows)), rows)


def test_too_few_users_and_one_label_tell_nothing(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = trained.data.config.feature_schema
    liked = schema.model_copy(update={"liked_above": 0.0})
    with pytest.raises(IncomparableError, match="all validation samples have one label"):
        trained.samples(trained.data.config.model_copy(update={"feature_schema": liked}))
    monkeypatch.setattr("offline.training.validation.FEWEST_USERS", 61)
    with pytest.raises(IncomparableError, match="users have validation samples, and 61 are needed"):
        trained.samples()


def test_what_is_no_model_cannot_be_compared(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(IncomparableError, match=r"model\.onnx cannot be run"):
        trained.samples().auc(tmp_path / "model.onnx")


def test_other_samples_than_the_trainings_are_refused(trained: Trained) -> None:
    fewer = replace(trained, report=replace(trained.report, log_rows=trained.report.log_rows - 1))
    with pytest.raises(DataError, match="was trained on other samples"):
        fewer.samples()
