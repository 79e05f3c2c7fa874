"""Fitting the model of whole histories: it learns a planted rule, repeatably, from nothing that it must not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.contract.arrays import FloatArray, IntArray
from models.ctr.gaussian_process import RatingProcess
from models.ctr.lifelong import Lifelong
from offline.config import TrainingConfig
from offline.metrics import Quality, quality
from offline.training import epochs, lifelong
from offline.training.candidates import ModelSpec
from offline.training.fit import Fitted, fit, new_model, predict
from offline.training.lifelong import as_torch, beliefs, fit_process
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from offline.training.sequences import SequenceEncoder
from tests.synthetic import SCHEMA, Synthetic, job_config, knowledge_of, synthetic

SPEC = ModelSpec("model", "lifelong")
LONG = SCHEMA.model_copy(update={"history_length": 40})


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """Sums of several threads need not be the same twice."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=1)


@pytest.fixture(scope="module")
def splits(data: Synthetic) -> SplitRows:
    return split_samples(data.config.samples, data.log)


@pytest.fixture(scope="module")
def encoder(data: Synthetic, splits: SplitRows) -> SampleEncoder:
    return encoder_of(data, splits)


def encoder_of(data: Synthetic, splits: SplitRows) -> SampleEncoder:
    return SampleEncoder(LONG, data.catalogue, data.log, data.knowledge, splits.trained_rows)


def configured(epochs: int = 1, **own: Any) -> TrainingConfig:
    chosen = {"tokens": 512, "factors": 4, "process_epochs": 1, "folds": 2, **own}
    return job_config(Path("unused"), epochs=epochs, served="lifelong", lifelong=chosen).training


def run(encoder: SampleEncoder, splits: SplitRows, config: TrainingConfig, *, seed: int = 1) -> Fitted:
    return fit(SPEC, config, encoder, splits, seed, progress=False)


def few(splits: SplitRows, train: int = 400) -> SplitRows:
    """The last samples of the training period alone, for tests that only compare."""
    return SplitRows({**splits.rows, "train": splits.rows["train"][-train:]}, splits.trained_rows)


def whole_histories(fitted: Fitted) -> Lifelong:
    assert isinstance(fitted.model.model, Lifelong)
    return fitted.model.model


def weights(fitted: Fitted) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in fitted.model.state_dict().values())


@pytest.fixture(scope="module", params=[True, False], ids=["attention", "inattentive"])
def learned(request: pytest.FixtureRequest, encoder: SampleEncoder, splits: SplitRows) -> Fitted:
    # After so many epochs every one of six starts has learned it; after three, not every one (research/LOG.md).
    return run(encoder, splits, configured(epochs=8, attention=request.param, process_epochs=3, tokens=256))


def test_a_planted_rule_is_learned(learned: Fitted, data: Synthetic, encoder: SampleEncoder, splits: SplitRows) -> None:
    rows = splits.rows["test"]
    measures = quality(encoder.labels[rows], predict(learned.model, encoder, rows), data.log.user[rows])
    assert measures.auc > 0.8  # 0.5 is chance; a tenth of all labels is noise
    assert measures.logloss < 0.5
    assert max(learned.validation_auc) > 0.8


def test_predictions_are_those_of_one_request_after_the_other(
    learned: Fitted, encoder: SampleEncoder, splits: SplitRows
) -> None:
    rows = np.random.default_rng(1).permutation(np.concatenate([splits.rows["test"], splits.rows["train"][::20]]))
    whole = predict(learned.model, encoder, rows)
    assert whole.dtype == np.float32
    assert whole.std() > 0.1
    with torch.inference_mode():
        together = torch.sigmoid(learned.model(as_torch(encoder.tensors(rows)))).numpy()
        alone = [torch.sigmoid(learned.model(as_torch(encoder.tensors(rows[at : at + 1])))).numpy() for at in range(25)]
    np.testing.assert_allclose(whole, together, atol=1e-5)
    np.testing.assert_allclose(whole[:25], np.concatenate(alone), atol=1e-5)


def test_what_was_fitted_reads_back(learned: Fitted, encoder: SampleEncoder, splits: SplitRows) -> None:
    again = new_model(SPEC, configured(attention=bool(whole_histories(learned).heads)), encoder)
    again.load_state_dict(learned.model.state_dict())
    rows = splits.rows["test"][:30]
    with torch.inference_mode():
        expected, logits = (model.eval()(as_torch(encoder.tensors(rows))) for model in (learned.model, again))
    assert torch.equal(expected, logits)


def test_fitting_is_deterministic_for_a_seed(encoder: SampleEncoder, splits: SplitRows) -> None:
    first, second, third = (run(encoder, few(splits), configured(epochs=2), seed=seed) for seed in (1, 1, 2))
    assert weights(first) == weights(second) != weights(third)
    assert first.validation_auc == second.validation_auc


def test_test_rows_are_never_touched(data: Synthetic, splits: SplitRows) -> None:
    """Neither their labels nor their values, items, users or knowledge."""
    end = int(splits.rows["validation"][-1]) + 1
    generator = np.random.default_rng(3)
    log = replace(data.log, **{name: getattr(data.log, name).copy() for name in ("user", "item", "value")})
    left = len(log) - end
    log.value[end:] = 6.0 - log.value[end:]
    log.item[end:] = generator.integers(len(log.item_ids), size=left)
    log.user[end:] = generator.integers(len(log.user_ids), size=left)
    poisoned = encoder_of(replace(data, log=log, knowledge=knowledge_of(data.catalogue, log)), splits)
    poisoned.labels[end:] = np.nan
    config = configured(epochs=2)
    clean = run(encoder_of(data, splits), few(splits), config)
    assert weights(run(poisoned, few(splits), config)) == weights(clean)
    poisoned.labels[end - 20 : end] = 1.0 - poisoned.labels[end - 20 : end]
    assert run(poisoned, few(splits), config).validation_auc != clean.validation_auc  # the last ones before do matter


class Spy:
    """Notes which samples each process was fitted to, and which samples' beliefs came from which process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fitted: dict[int, IntArray] = {}
        self.asked: list[tuple[RatingProcess, IntArray, FloatArray]] = []

        def noted_fit(
            process: RatingProcess, config: Any, sequences: SequenceEncoder, rows: IntArray, seed: int
        ) -> None:
            fit_process(process, config, sequences, rows, seed)
            self.fitted[id(process)] = rows

        def noted_beliefs(
            process: RatingProcess, sequences: SequenceEncoder, rows: IntArray, epoch: int | None = None
        ) -> FloatArray:
            moments = beliefs(process, sequences, rows, epoch)
            self.asked.append((process, rows, moments.copy()))
            return moments

        monkeypatch.setattr(lifelong, "fit_process", noted_fit)
        monkeypatch.setattr(lifelong, "beliefs", noted_beliefs)


@pytest.mark.parametrize("folds", [2, 3])
def test_beliefs_of_a_training_sample_are_of_a_process_that_never_saw_its_user(
    encoder: SampleEncoder, splits: SplitRows, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    spy, user = Spy(monkeypatch), encoder.log.user
    read: list[FloatArray] = []
    monkeypatch.setattr(Lifelong, "standardise", lambda self, beliefs: read.append(beliefs.numpy()))
    model = whole_histories(run(encoder, few(splits), configured(folds=folds)))
    train, validation = few(splits).rows["train"], splits.rows["validation"]
    (last, of_validation, _), *others = spy.asked
    assert last is model.process
    np.testing.assert_array_equal(of_validation, validation)
    np.testing.assert_array_equal(spy.fitted[id(last)], train)
    assert len(others) == folds
    for process, rows, _ in others:
        fitted = spy.fitted[id(process)]
        assert len(rows) > 0
        assert not np.isin(user[rows], user[fitted]).any()
        np.testing.assert_array_equal(np.union1d(fitted, rows), train)
    np.testing.assert_array_equal(np.sort(np.concatenate([rows for _, rows, _ in others])), train)
    np.testing.assert_array_equal(read[0], sum(moments for *_, moments in others)[train])  # type: ignore[index]


def test_in_every_epoch_the_process_and_the_network_do_not_know_the_same_items(
    encoder: SampleEncoder, splits: SplitRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    read: list[torch.Tensor] = []
    sequence = Lifelong.sequence

    def noted(model: Lifelong, tensors: Any, sample: torch.Tensor, beliefs: torch.Tensor, running: Any = None) -> Any:
        if model.training:
            read.append(torch.stack([(tensors["item_index"] == 0)[sample].float().mean(), beliefs.mean()]))
        return sequence(model, tensors, sample, beliefs, running)

    monkeypatch.setattr(Lifelong, "sequence", noted)
    config = configured(epochs=2, folds=2).model_copy(update={"item_dropout": 0.5})
    fitted = run(encoder, few(splits), config)
    (_, of_validation, _), *others = spy.asked
    np.testing.assert_array_equal(of_validation, splits.rows["validation"])
    assert len(others) == 2 * 2
    train, (first, second) = few(splits).rows["train"], (others[0][2] + others[1][2], others[2][2] + others[3][2])
    for process, rows, _ in others:
        assert not np.isin(encoder.log.user[rows], encoder.log.user[spy.fitted[id(process)]]).any()
    assert (first[train] != second[train]).any(axis=1).mean() > 0.9
    assert float(torch.stack(read)[:, 0].mean()) == pytest.approx(0.5, abs=0.1)
    assert np.isfinite(predict(fitted.model, encoder, splits.rows["test"])).all()


def test_one_fold_is_no_fold(encoder: SampleEncoder, splits: SplitRows, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    fitted = run(encoder, few(splits), configured(folds=1))
    assert len(spy.fitted) == 1
    assert [len(rows) for _, rows, _ in spy.asked] == [len(splits.rows["validation"]), 400]
    assert np.isfinite(predict(fitted.model, encoder, splits.rows["test"])).all()


def test_more_folds_than_users_are_fine(encoder: SampleEncoder, splits: SplitRows) -> None:
    rows = splits.rows["train"]
    three = SplitRows({**splits.rows, "train": rows[encoder.log.user[rows] < 3]}, splits.trained_rows)
    fitted = run(encoder, three, configured(folds=5))
    assert all(torch.isfinite(tensor).all() for tensor in fitted.model.state_dict().values())


def test_the_best_epoch_is_kept(encoder: SampleEncoder, splits: SplitRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second, of three; and its process is not what the network's training made of it."""
    aucs = iter((0.6, 0.8, 0.7))
    states: list[dict[str, torch.Tensor]] = []
    logits = lifelong._logits

    def noted(model: Lifelong, *arguments: Any) -> FloatArray:
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        outcome: FloatArray = logits(model, *arguments)
        return outcome

    monkeypatch.setattr(lifelong, "_logits", noted)
    monkeypatch.setattr(epochs, "quality", lambda *_: Quality(0.5, 1.0 - next(aucs), 0.5))
    fitted = run(encoder, few(splits), configured(epochs=3))
    assert fitted.validation_logloss == pytest.approx((0.4, 0.2, 0.3))
    assert fitted.epoch == 1
    state = fitted.model.model.state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, states[1][name]), name
        assert not name.startswith("process.") or torch.equal(states[0][name], states[2][name]), name
    assert not torch.equal(states[1]["out.weight"], states[2]["out.weight"])
    assert not fitted.model.training
