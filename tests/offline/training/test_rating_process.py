"""Fitting a process of ratings: it finds the planted rule, repeatably, with the decays and rates configured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.ctr.gaussian_process import RatingProcess
from offline.config import LifelongConfig
from offline.training.lifelong import Schedule, as_torch, beliefs, fit_process, step
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from offline.training.sequences import SequenceEncoder
from tests.synthetic import SCHEMA, Synthetic, synthetic

LONG = SCHEMA.model_copy(update={"history_length": 40})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=1, users=40, events=25)


@pytest.fixture(scope="module")
def splits(data: Synthetic) -> SplitRows:
    return split_samples(data.config.samples, data.log)


@pytest.fixture(scope="module")
def encoder(data: Synthetic, splits: SplitRows) -> SampleEncoder:
    return SampleEncoder(LONG, data.catalogue, data.log, data.knowledge, splits.trained_rows)


def fitted(encoder: SampleEncoder, rows: np.ndarray, *, seed: int = 1, born: int = 1, **config: Any) -> RatingProcess:
    torch.manual_seed(born)
    process = RatingProcess(LONG, int(encoder.table.index.max()) + 1, 4)
    chosen = LifelongConfig.model_validate({"tokens": 200, "process_epochs": 2, **config})
    fit_process(process, chosen, SequenceEncoder(encoder), rows, seed)
    return process


def weights(process: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in process.state_dict().values())


def misfit(process: RatingProcess, encoder: SampleEncoder, rows: np.ndarray) -> float:
    """Mean negative log-likelihood of the values at these rows."""
    (batch,) = SequenceEncoder(encoder).once(rows, 10**6)
    with torch.inference_mode():
        inputs = {name: torch.from_numpy(array) for name, array in batch.tensors.items()}
        return float(process.loss(inputs, torch.from_numpy(batch.sample))) / len(rows)


def test_what_it_learns_holds_for_later_values(encoder: SampleEncoder, splits: SplitRows) -> None:
    train, validation = splits.rows["train"], splits.rows["validation"]
    untrained, process = fitted(encoder, train[:1], process_epochs=1), fitted(encoder, train, process_epochs=4)
    assert misfit(process, encoder, validation) < misfit(untrained, encoder, validation) - 0.1
    mean = beliefs(process, SequenceEncoder(encoder), validation)[validation, 0]
    assert np.corrcoef(mean, encoder.log.value[validation])[0, 1] > 0.4
    assert not process.training


def test_fitting_is_deterministic_for_a_seed(encoder: SampleEncoder, splits: SplitRows) -> None:
    rows = splits.rows["train"][:200]
    first = weights(fitted(encoder, rows))
    assert first == weights(fitted(encoder, rows))
    assert first != weights(fitted(encoder, rows, seed=2))
    assert first != weights(fitted(encoder, rows, born=2))
    assert first != weights(fitted(encoder, rows[:-1]))


def test_beliefs_are_those_of_one_request_after_the_other(encoder: SampleEncoder, splits: SplitRows) -> None:
    process = fitted(encoder, splits.rows["train"])
    process.user.prepare()
    rows = np.concatenate([splits.rows["validation"], splits.rows["train"][::5]])
    moments = beliefs(process, SequenceEncoder(encoder), rows)
    assert moments.shape == (len(encoder.log), 2)
    others = np.setdiff1d(np.arange(len(encoder.log)), rows)
    assert not moments[others].any()
    with torch.inference_mode():
        together = torch.stack(process(as_torch(encoder.tensors(rows))), dim=1).numpy()
        alone = [torch.stack(process(as_torch(encoder.tensors(rows[at : at + 1]))), dim=1).numpy() for at in range(10)]
    np.testing.assert_allclose(moments[rows], together, atol=2e-5)
    np.testing.assert_allclose(moments[rows[:10]], np.concatenate(alone), atol=2e-5)


def test_what_decays_and_what_learns_slowly(
    encoder: SampleEncoder, splits: SplitRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizers: list[torch.optim.AdamW] = []

    class Noted(torch.optim.AdamW):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            optimizers.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Noted)
    process = fitted(encoder, splits.rows["train"][:9], factor_decay=0.7, prior_decay=0.2, process_learning_rate=0.05)
    names = {id(weight): name for name, weight in process.named_parameters()}
    settings = {
        names[id(weight)]: (group["weight_decay"], group["lr"])
        for group in optimizers[0].param_groups
        for weight in group["params"]
    }
    assert set(settings) == set(names.values())
    shared = {name for name in settings if name.endswith("knowledge.weight") or name.startswith("profile.")}
    assert len(shared) == 4
    decays = {name: decay for name, (decay, _) in settings.items() if decay}
    assert decays == {"factors.ids.weight": 0.7, "prior.ids.weight": 0.2, **dict.fromkeys(shared, 0.2)}
    usual = settings["prior.ids.weight"][1]
    assert {name for name, (_, rate) in settings.items() if rate == pytest.approx(usual / 10)} == shared


def test_rates_rise_and_then_fall_as_a_cosine() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}]
    )
    schedule = Schedule(optimizer, warm_up=10, floor=0.2)
    rates = []
    for at in range(101):
        schedule.set(at / 100)
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
    fast, slow = np.array(rates).T
    np.testing.assert_allclose(slow, 0.1 * fast)
    assert fast[0] == pytest.approx(0.1)
    assert (np.diff(fast[:10]) > 0).all()
    assert (np.diff(fast[10:]) < 0).all()
    assert fast[50] == pytest.approx(0.6)
    assert fast[100] == pytest.approx(0.2)


def test_a_step_forgets_the_last_gradient_and_cuts_a_huge_one() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for size, expected in ((-3.0, 3.0), (-1e6, 8.0), (0.5, 7.5)):
        step(optimizer, layer, layer(torch.full((1, 1), size)).sum())
        assert layer.weight.item() == pytest.approx(expected)


def test_a_single_sample_is_enough(encoder: SampleEncoder, splits: SplitRows) -> None:
    process = fitted(encoder, splits.rows["train"][:1])
    assert all(torch.isfinite(tensor).all() for tensor in process.state_dict().values())
