"""Fitting on data with a planted rule: it is learned, repeatably, and test rows are never touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.schema import FeatureSchema
from models.ctr.build import DIN, Architecture
from models.ctr.features import Experts, FieldEmbedding
from models.ctr.layers import Fusion, InterestFusion
from offline.config import TrainingConfig
from offline.data.catalogue import Catalogue
from offline.metrics import quality
from offline.training.candidates import ModelSpec
from offline.training.fit import Fitted, fit, new_model, predict
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from tests.synthetic import SCHEMA, Synthetic, job_config, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=1)


@pytest.fixture(scope="module")
def splits(data: Synthetic) -> SplitRows:
    return split_samples(data.config.samples, data.log)


def encoder_of(data: Synthetic, splits: SplitRows, schema: FeatureSchema = SCHEMA) -> SampleEncoder:
    return SampleEncoder(schema, data.catalogue, data.log, data.knowledge, splits.trained_rows)


def configured(**training: object) -> TrainingConfig:
    return job_config(Path("unused"), **training).training


def run(
    data: Synthetic,
    splits: SplitRows,
    config: TrainingConfig,
    *,
    architecture: Architecture = "din",
    seed: int = 1,
    encoder: SampleEncoder | None = None,
) -> Fitted:
    spec = ModelSpec("model", architecture)
    return fit(spec, config, encoder or encoder_of(data, splits), splits, seed)


def weights(fitted: Fitted) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in fitted.model.state_dict().values())


def test_a_planted_rule_is_learned(data: Synthetic, splits: SplitRows) -> None:
    encoder = encoder_of(data, splits)
    fitted = run(data, splits, configured(epochs=8, patience=8, batch_size=64), encoder=encoder)
    rows = splits.rows["test"]
    measures = quality(encoder.labels[rows], predict(fitted.model, encoder, rows), data.log.user[rows])
    assert measures.auc > 0.75  # 0.5 is chance; a tenth of all labels is noise
    assert max(fitted.validation_auc) > 0.75


@pytest.mark.parametrize(
    ("architecture", "fusion"), [("din", "target"), ("din", "learned"), ("dcnv2", "target"), ("deepfm", "target")]
)
@pytest.mark.parametrize("producers", [("text", "liber", "marc"), ("marc",), ()], ids=len)
def test_fitting_is_deterministic_for_a_seed(
    data: Synthetic, splits: SplitRows, architecture: Architecture, fusion: Fusion, producers: tuple[str, ...]
) -> None:
    small = SplitRows({**splits.rows, "train": splits.rows["train"][:300]}, splits.trained_rows)
    config = configured(epochs=1, fusion=fusion)
    encoder = encoder_of(data, splits, SCHEMA.with_knowledge(producers))
    first, second = (run(data, small, config, architecture=architecture, encoder=encoder) for _ in range(2))
    assert weights(first) == weights(second)
    assert first.validation_auc == second.validation_auc
    assert weights(run(data, small, config, architecture=architecture, encoder=encoder, seed=2)) != weights(first)


@pytest.mark.parametrize("architecture", ["din", "lifelong"])
def test_the_configuration_says_how_partitions_are_fused(
    data: Synthetic, splits: SplitRows, architecture: Architecture
) -> None:
    encoder = encoder_of(data, splits)
    for fusion in ("target", "learned"):
        model = new_model(ModelSpec("model", architecture), configured(fusion=fusion), encoder)
        assert [module.kind for module in model.modules() if isinstance(module, InterestFusion)] == [fusion]


@pytest.mark.parametrize("architecture", ["din", "dcnv2", "deepfm", "lifelong"])
def test_the_configuration_says_what_single_vectors_pass(
    data: Synthetic, splits: SplitRows, architecture: Architecture
) -> None:
    encoder = encoder_of(data, splits)
    for adaptor, spaces in (("linear", 0), ("experts", 3)):
        model = new_model(ModelSpec("model", architecture), configured(knowledge_adaptor=adaptor), encoder)
        experts = [module for module in model.modules() if isinstance(module, Experts)]
        assert len(experts) == spaces
        assert len({id(module.shared) for module in experts}) == min(1, spaces)  # users and items share them


def test_labels_of_test_rows_do_not_matter(data: Synthetic, splits: SplitRows) -> None:
    blind = encoder_of(data, splits)
    blind.labels[splits.rows["test"]] = np.nan
    config = configured(epochs=2)
    assert weights(run(data, splits, config, encoder=blind)) == weights(run(data, splits, config))


def test_test_rows_are_never_encoded(data: Synthetic, splits: SplitRows) -> None:
    class Guarded(SampleEncoder):
        def tensors(self, rows: np.ndarray) -> dict[str, np.ndarray]:
            assert not np.isin(rows, splits.rows["test"]).any()
            return super().tensors(rows)

    encoder = Guarded(SCHEMA, data.catalogue, data.log, data.knowledge, splits.trained_rows)
    run(data, splits, configured(epochs=1), encoder=encoder)
    with pytest.raises(AssertionError):
        encoder.tensors(splits.rows["test"][:1])


def test_the_best_epoch_is_kept_and_training_stops_after_it(data: Synthetic, splits: SplitRows) -> None:
    encoder = encoder_of(data, splits)
    fitted = run(data, splits, configured(epochs=30, patience=2, batch_size=128, learning_rate=0.05), encoder=encoder)
    assert len(fitted.validation_auc) < 30
    assert fitted.epoch == int(np.argmin(fitted.validation_logloss)) == len(fitted.validation_logloss) - 3
    rows = splits.rows["validation"]
    measures = quality(encoder.labels[rows], predict(fitted.model, encoder, rows), data.log.user[rows])
    assert (measures.logloss, measures.auc) == pytest.approx((fitted.logloss, fitted.auc), abs=1e-6)
    assert not fitted.model.training


def test_a_last_batch_of_one_sample_is_fine(data: Synthetic, splits: SplitRows) -> None:
    odd = SplitRows({**splits.rows, "train": splits.rows["train"][:65]}, splits.trained_rows)
    fitted = run(data, odd, configured(epochs=1, batch_size=64))
    assert all(torch.isfinite(tensor).all() for tensor in fitted.model.state_dict().values())


def test_predictions_do_not_depend_on_the_batch_size(data: Synthetic, splits: SplitRows) -> None:
    encoder = encoder_of(data, splits)
    model = run(data, splits, configured(epochs=1), encoder=encoder).model
    rows = splits.rows["validation"][:30]
    whole, parts = predict(model, encoder, rows), predict(model, encoder, rows, batch_size=7)
    assert whole.shape == (30,)
    np.testing.assert_allclose(whole, parts, atol=1e-6)


@pytest.mark.parametrize("architecture", ["din", "lifelong"])
def test_a_value_that_no_trained_item_has_says_nothing(
    data: Synthetic, splits: SplitRows, architecture: Architecture
) -> None:
    films = {item: {**of, "year": 1975 if item == "i0" else 1995} for item, of in data.catalogue.items.items()}
    changed = replace(data, catalogue=Catalogue(data.catalogue.users, films))
    encoder = encoder_of(changed, splits)
    index = encoder.table.index.copy()
    index[1 + data.log.item_ids.index("i0")] = 0
    encoder.table = replace(encoder.table, index=index)
    torch.manual_seed(1)
    model = new_model(ModelSpec("model", architecture), configured(), encoder)
    tables = [
        module.tables[1].detach()
        for module in model.modules()
        if isinstance(module, FieldEmbedding) and module.specs == SCHEMA.item_fields
    ]
    assert len(tables) == (3 if architecture == "lifelong" else 1)
    trained = int(encoder.table.categorical[1 + data.log.item_ids.index("i1"), -1])
    others = np.setdiff1d(np.arange(len(tables[0])), trained)
    assert all(not table[others].any() for table in tables)
    assert tables[0][trained].any()


def test_items_are_dropped_out_of_windows(data: Synthetic, splits: SplitRows) -> None:
    """Training sees what is drawn, each epoch something else; validation knows all items."""
    shares: dict[bool, list[float]] = {True: [], False: []}
    forward = DIN.forward

    def noted(model: DIN, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        shares[model.training].append(float((inputs["item_index"] == 0).float().mean()))
        return forward(model, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DIN, "forward", noted)
        run(data, splits, configured(epochs=2, item_dropout=0.4))
    assert np.mean(shares[True]) == pytest.approx(0.4, abs=0.05)
    assert np.mean(shares[False]) == 0.0
