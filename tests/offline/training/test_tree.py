"""Boosted trees: what scikit-learn grew is what torch walks, and they learn what the data hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from models.contract.arrays import FloatArray, IntArray
from models.contract.artifact import ArtifactManifest, ModelName
from models.contract.schema import RunningSpec
from models.ctr.build import build_model, reads
from models.ctr.calibration import Calibrated
from models.ctr.export import export_onnx, parity
from models.ctr.features import ModelSettings
from models.ctr.tree import BoostedTrees
from offline.config import TrainingConfig, TreeConfig
from offline.metrics import auc
from offline.training import tree
from offline.training.artifact import as_request
from offline.training.candidates import ModelSpec
from offline.training.fit import fit, predict
from offline.training.item_dropout import ItemDropout
from offline.training.lifelong import as_torch
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from offline.training.tree import features, fit_tree
from tests.synthetic import SCHEMA, Synthetic, synthetic

RUNNING = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=(1.0,))})
SMALL = TreeConfig(trees=30, leaves=6, least_samples=5, learning_rate=0.2, patience=5)


def training(**changed: int) -> TrainingConfig:
    return TrainingConfig(tree=SMALL.model_copy(update=changed))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=1)


@pytest.fixture(scope="module")
def splits(data: Synthetic) -> SplitRows:
    return split_samples(data.config.samples, data.log)


@pytest.fixture(scope="module")
def encoder(data: Synthetic, splits: SplitRows) -> SampleEncoder:
    return SampleEncoder(RUNNING, data.catalogue, data.log, data.knowledge, splits.trained_rows)


def ungrown() -> BoostedTrees:
    model = build_model("tree", RUNNING, 1, ModelSettings(8, 0.0, 0.0))
    assert isinstance(model, BoostedTrees)
    return model


def test_torch_walks_the_trees_that_were_grown(
    encoder: SampleEncoder, splits: SplitRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    growers = []
    taken = tree._arrays

    def noted(grower: HistGradientBoostingClassifier, rounds: int) -> dict[str, torch.Tensor]:
        growers.append((grower, rounds))
        return taken(grower, rounds)

    monkeypatch.setattr(tree, "_arrays", noted)
    model = ungrown()
    rounds, losses = fit_tree(model, training(), encoder, splits, 1)
    rows = splits.rows["test"]
    grower, count = growers[0]
    assert rounds == count == int(np.argmin(losses)) > 0
    assert len(model.roots) == rounds
    expected = list(grower.staged_predict_proba(features(model, encoder, rows)))[rounds - 1][:, 1]
    np.testing.assert_allclose(predict(Calibrated(model), encoder, rows), expected, atol=1e-6)


def test_trees_learn_what_users_like(data: Synthetic, encoder: SampleEncoder, splits: SplitRows) -> None:
    training = data.config.training.model_copy(update={"tree": SMALL})
    fitted = fit(ModelSpec("trees", "tree"), training, encoder, splits, 1)
    rows = splits.rows["test"]
    assert auc(encoder.labels[rows], predict(fitted.model, encoder, rows)) > 0.7


def test_without_a_tree_that_helps_all_samples_score_alike(encoder: SampleEncoder, splits: SplitRows) -> None:
    model = ungrown()
    rounds, _ = fit_tree(model, training(least_samples=10_000), encoder, splits, 1)
    scores = predict(Calibrated(model), encoder, splits.rows["test"])
    assert rounds == 0
    np.testing.assert_allclose(scores, encoder.labels[splits.rows["train"]].mean(), atol=1e-5)


def test_so_many_samples_are_drawn(encoder: SampleEncoder, splits: SplitRows, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    taken = tree.features

    def noted(
        model: BoostedTrees, encoder: SampleEncoder, rows: IntArray, dropout: ItemDropout | None = None
    ) -> FloatArray:
        counts.append(len(rows))
        return taken(model, encoder, rows)

    monkeypatch.setattr(tree, "features", noted)
    fit_tree(ungrown(), training(most_samples=100), encoder, splits, 1)
    assert counts == [100, len(splits.rows["validation"])]


def test_thresholds_at_the_very_values_are_passed_alike(encoder: SampleEncoder, splits: SplitRows) -> None:
    """The exported graph computes features to the last digit as torch does: any other would fall to the other side."""
    rows = splits.rows["validation"]
    requests = [as_request(encoder.tensors(row), encoder.tensors(rows[:40])) for row in rows[:8, None]]
    model = ungrown()
    with torch.inference_mode():
        values = torch.cat([model.features(as_torch(request)) for request in requests]).numpy()
    stumps = [(feature, value) for feature, column in enumerate(values.T) for value in np.unique(column)[:60]]
    count = len(stumps)
    places = torch.arange(3 * count).view(count, 3)  # a branch and two leaves each
    arrays = {
        "feature": torch.tensor([[feature, 0, 0] for feature, _ in stumps]).view(-1),
        "threshold": torch.tensor([[value, 0.0, 0.0] for _, value in stumps]).view(-1),
        "left": torch.stack([places[:, 1], places[:, 1], places[:, 2]], dim=1).view(-1),
        "right": torch.stack([places[:, 2], places[:, 1], places[:, 2]], dim=1).view(-1),
        "value": torch.tensor([[0.0, -1.0, 1.0]]).repeat(count, 1).view(-1) / 1024,  # sums are exact
        "roots": places[:, 0].contiguous(),
        "depth": torch.ones(1),
        "base": torch.zeros(1),
    }
    model.grow(arrays)
    manifest = ArtifactManifest(
        model=ModelName(name="stumps", version="1"), architecture="tree",
        feature_schema=RUNNING.with_knowledge(()), inputs=reads("tree", RUNNING), item_rows=1, trained_until_ms=0,
    )  # fmt: skip
    assert parity(model.eval(), export_onnx(model, manifest, requests[-1]), manifest, requests) < 1e-6
