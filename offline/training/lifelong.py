"""Fitting the model of whole histories (``models.ctr.lifelong``), in two steps.

First the process of ratings, by the likelihood of every value given those before it; then the network that reads it, by
binary cross-entropy, with the value itself as a second target. The network must not trust the process more than it may:
what the process expects of a training sample comes from one that was fitted without that sample's user, as in stacking
(Wolpert, Neural Networks 5, 1992). ``folds`` processes are fitted for this, and one of everybody, which is the one that
validation, test and service see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.contract.arrays import FloatArray, IntArray
from models.contract.encoding import Tensors
from models.ctr.gaussian_process import RatingProcess
from models.ctr.lifelong import Lifelong
from models.ctr.running import RunningFeatures
from offline.config import LifelongConfig, TrainingConfig
from offline.progress import Progress
from offline.training.epochs import Epochs
from offline.training.item_dropout import ItemDropout
from offline.training.samples import SampleEncoder, SplitRows
from offline.training.sequences import SequenceEncoder

JUDGED_TOKENS = 4096
"""Events in a batch without gradients. Pairs of them take a gigabyte where a user has thousands."""

SCALED_BY = 20_000
"""Training samples whose running features tell their scale."""

_MOST_LEVELS = 11
"""Different values beyond which they are no rating scale, and no second target."""


def fit_lifelong(
    make: Callable[[], Lifelong],
    config: TrainingConfig,
    encoder: SampleEncoder,
    splits: SplitRows,
    seed: int,
    *,
    label: str,
    progress: bool,
) -> Epochs:
    """Train a model that ``make`` makes; it ends with the weights of its best epoch on the validation split."""
    dropout, own = ItemDropout.of(config, encoder, seed), config.lifelong
    sequences = SequenceEncoder(encoder, dropout)
    train, validation, user = splits.rows["train"], splits.rows["validation"], encoder.log.user
    folds = own.folds if own.folds > 1 else 0
    with Progress(label, 1 + folds + config.epochs, "passes", shown=progress) as bar:

        def fitted(rows: IntArray, process: RatingProcess) -> RatingProcess:
            fit_process(process, own, sequences, rows, seed)
            bar.advance()
            return process

        def untrained() -> Lifelong:
            torch.manual_seed(seed)
            return make()

        model = untrained()
        stacked = [(fitted(train, _process(model)), train)]
        if folds:
            fold = np.random.default_rng(seed).permutation(int(user.max()) + 1)[user[train]] % folds
            stacked = [
                (fitted(train[fold != part], _process(untrained())), train[fold == part]) for part in range(folds)
            ]
        _process(model).requires_grad_(False)
        of_validation = _Given(
            beliefs(_process(model), sequences, validation), _running_features(model.running, sequences, validation)
        )

        def given(epoch: int) -> _Given:
            """What the training samples of an epoch are read with, which is the same in all if all items are known."""
            if first is not None and not (epoch and dropout.share):
                return first
            expected = np.zeros((sequences.log_rows, 2), np.float32)
            for process, rows in stacked:
                expected += beliefs(process, sequences, rows, epoch)
            return _Given(expected, _running_features(model.running, sequences, train, epoch))

        first: _Given | None = None
        first = given(0)
        model.standardise(torch.from_numpy(first.expected[train]))
        if model.running is not None and first.running is not None:
            drawn = np.random.default_rng(seed).choice(train, min(len(train), SCALED_BY), replace=False)
            model.running.standardise(torch.from_numpy(first.running[drawn]))
        epochs = Epochs(model, encoder, validation)
        for _ in _epochs(model, config, sequences, train, encoder.labels, given, seed):
            epochs.ended(_logits(model, sequences, validation, of_validation)[validation])
            bar.advance(note=str(epochs))
    return epochs.best()


def predict_sequences(model: Lifelong, encoder: SampleEncoder, rows: IntArray) -> FloatArray:
    """Logits [n] of the samples at these log rows, read from whole histories: many times faster than one by one.

    A served history ends at the schema's length; here it does not.
    """
    sequences = SequenceEncoder(encoder)
    expected = beliefs(_process(model), sequences, rows)
    return _logits(model, sequences, rows, _Given(expected, _running_features(model.running, sequences, rows)))[rows]


@dataclass(frozen=True, slots=True)
class _Given:
    """What the network reads and does not learn: means and deviations ``expected`` [log rows, 2] by the process, and
    ``running`` features [log rows, R] as they are, None of a schema without."""

    expected: FloatArray
    running: FloatArray | None

    def at(self, rows: IntArray) -> tuple[Tensor, Tensor | None]:
        running = None if self.running is None else torch.from_numpy(self.running[rows])
        return torch.from_numpy(self.expected[rows]), running


def _process(model: Lifelong) -> RatingProcess:
    """The process of a model that is read from whole histories, which always has one."""
    assert model.process is not None
    return model.process


def _running_features(
    running: RunningFeatures | None, sequences: SequenceEncoder, rows: IntArray, epoch: int | None = None
) -> FloatArray | None:
    """Running features of the samples at these log rows, [log rows, R], zeros elsewhere; None where a model has
    none. All items are known, or those that are in an ``epoch`` of training."""
    if running is None:
        return None
    features = np.zeros((sequences.log_rows, running.width), np.float32)
    with torch.inference_mode():
        for batch in sequences.once(rows, JUDGED_TOKENS, epoch):
            features[batch.rows[batch.sample]] = running.sequence(as_torch(batch.tensors)).numpy()[batch.sample]
    return features


def _epochs(
    model: Lifelong,
    config: TrainingConfig,
    sequences: SequenceEncoder,
    rows: IntArray,
    labels: FloatArray,
    given: Callable[[int], _Given],
    seed: int,
) -> Iterator[int]:
    """Train the network; yields the number of each finished epoch."""
    own, levels = config.lifelong, np.unique(sequences.value[rows])
    stars = nn.Linear(model.hidden, len(levels)) if 2 < len(levels) <= _MOST_LEVELS else None
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    heads = [] if stars is None else list(stars.parameters())
    ids = [weight for name, weight in trained if name == "ids.weight"]
    others = [weight for name, weight in trained if name != "ids.weight"] + heads
    groups = [{"params": ids, "weight_decay": 0.0}, {"params": others, "weight_decay": own.weight_decay}]
    optimizer = torch.optim.AdamW(groups, lr=own.learning_rate, betas=(0.9, 0.98))
    schedule = Schedule(optimizer, warm_up=200, floor=0.02)
    usual = len(rows) / sequences.steps(rows, own.tokens)  # samples of a batch; some users have more than others
    finished, of_epoch = 0, given(0)
    for progress, batch in sequences.epochs(rows, own.tokens, config.epochs, seed):
        if int(progress * config.epochs + 1e-9) > finished:
            yield finished
            finished += 1
            of_epoch = given(finished)
        model.train()
        schedule.set(progress)
        chosen = batch.rows[batch.sample]
        sample = torch.from_numpy(batch.sample)
        logits, hidden = model.sequence(as_torch(batch.tensors), sample, *of_epoch.at(chosen))
        label = torch.from_numpy(labels[chosen])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="sum")
        if stars is not None:
            level = torch.from_numpy(np.searchsorted(levels, batch.tensors["value"][batch.sample]))
            loss = loss + own.value_weight * nn.functional.cross_entropy(stars(hidden), level, reduction="sum")
        step(optimizer, model, loss / usual)
    yield finished


def _logits(model: Lifelong, sequences: SequenceEncoder, rows: IntArray, given: _Given) -> FloatArray:
    """[log rows], zeros but at ``rows``."""
    logits_of = np.zeros(sequences.log_rows, np.float32)
    model.eval()
    with torch.inference_mode():
        for batch in sequences.once(rows, JUDGED_TOKENS):
            chosen = batch.rows[batch.sample]
            sample = torch.from_numpy(batch.sample)
            logits, _ = model.sequence(as_torch(batch.tensors), sample, *given.at(chosen))
            logits_of[chosen] = logits.numpy()
    return logits_of


def fit_process(
    process: RatingProcess, config: LifelongConfig, sequences: SequenceEncoder, rows: IntArray, seed: int
) -> None:
    """Fit ``process`` to the samples at these log rows, by likelihood."""
    decays = {"factors.ids.weight": config.factor_decay, "prior.ids.weight": config.prior_decay}
    rate, groups = config.process_learning_rate, []
    for name, weight in process.named_parameters():
        group: dict[str, Any] = {"params": [weight], "lr": rate, "weight_decay": decays.get(name, 0.0)}
        if name.endswith("knowledge.weight") or name.startswith("profile."):  # what all items or users share
            group |= {"lr": rate / 10, "weight_decay": config.prior_decay}
        groups.append(group)
    optimizer = torch.optim.AdamW(groups)
    schedule = Schedule(optimizer, warm_up=100, floor=0.03)
    process.train()
    for progress, batch in sequences.epochs(rows, config.tokens, config.process_epochs, seed):
        schedule.set(progress)
        loss = process.loss(as_torch(batch.tensors), torch.from_numpy(batch.sample)) / config.tokens
        step(optimizer, process, loss)
    process.eval()


def beliefs(process: RatingProcess, sequences: SequenceEncoder, rows: IntArray, epoch: int | None = None) -> FloatArray:
    """Mean and deviation of the value of each sample, [log rows, 2]; zeros but at ``rows``. All items are known, or
    those that are in an ``epoch`` of training."""
    moments = np.zeros((sequences.log_rows, 2), np.float32)
    with torch.inference_mode():
        for batch in sequences.once(rows, JUDGED_TOKENS, epoch):
            expected = torch.stack(process.sequence(as_torch(batch.tensors)), dim=2).numpy()
            moments[batch.rows[batch.sample]] = expected[batch.sample]
    return moments


class Schedule:
    """A cosine from the optimizer's own rates down to ``floor`` of them, after ``warm_up`` steps of linear rise."""

    def __init__(self, optimizer: torch.optim.Optimizer, warm_up: int, floor: float) -> None:
        self._optimizer = optimizer
        self._rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._warm_up, self._floor, self._steps = warm_up, floor, 0

    def set(self, progress: float) -> None:
        """Before each step; ``progress`` from 0 to 1 is how much of the training is done."""
        self._steps += 1
        share = self._floor + (1.0 - self._floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share * min(1.0, self._steps / self._warm_up)


def step(optimizer: torch.optim.Optimizer, module: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    optimizer.step()


def as_torch(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in tensors.items()}
