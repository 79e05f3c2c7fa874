"""Fitting one CTR model: AdamW on binary cross-entropy, early stopping by the LogLoss of the validation split, on which
the model is calibrated at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from models.contract.arrays import FloatArray, IntArray
from models.contract.encoding import Tensors
from models.ctr.build import build_model
from models.ctr.calibration import Calibrated
from models.ctr.features import FieldEmbedding, ModelSettings
from models.ctr.lifelong import Lifelong
from models.ctr.running import RunningFeatures
from models.ctr.tree import BoostedTrees
from offline.config import Served, TrainingConfig
from offline.progress import Progress
from offline.training.candidates import ModelSpec
from offline.training.epochs import Epochs
from offline.training.item_dropout import ItemDropout
from offline.training.lifelong import SCALED_BY, as_torch, fit_lifelong, predict_sequences
from offline.training.samples import SampleEncoder, SplitRows
from offline.training.tree import fit_tree


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained and calibrated model in evaluation mode, with AUC and LogLoss of calibrated scores of the validation
    samples per epoch, AUC NaN where one label leaves it undefined; ``epoch`` is the best one, whose weights it has.
    Trees have one epoch."""

    model: Calibrated
    epoch: int
    validation_auc: tuple[float, ...]
    validation_logloss: tuple[float, ...] = ()

    @property
    def auc(self) -> float:
        """AUC of the best epoch."""
        return self.validation_auc[self.epoch]

    @property
    def logloss(self) -> float:
        """LogLoss of the best epoch."""
        return self.validation_logloss[self.epoch]


def new_model(spec: ModelSpec, config: TrainingConfig, encoder: SampleEncoder) -> Calibrated:
    """An untrained model of ``spec`` for the encoder's schema and catalogue."""
    dim, own = config.embedding_dim, config.lifelong
    factors = 0 if has_windows(spec, encoder) else own.factors
    settings = ModelSettings(
        dim, config.dropout, config.knowledge_dropout, config.fusion, factors, own.attention, config.knowledge_adaptor
    )
    model = build_model(spec.architecture, encoder.schema, int(encoder.table.index.max()) + 1, settings)
    start_fields(model, encoder)
    return Calibrated(model)


def start_fields(model: nn.Module, encoder: SampleEncoder) -> None:
    """Let an untrained model know nothing of values of item fields that no item of the training period has."""
    table, specs = encoder.table, encoder.schema.item_fields
    trained = torch.from_numpy(table.categorical[table.index > 0])
    for module in model.modules():
        if isinstance(module, FieldEmbedding) and module.specs == specs:
            module.start_from(trained)


def has_windows(spec: ModelSpec, encoder: SampleEncoder) -> bool:
    """Whether a model is trained on a window of history per sample; else it is read from whole histories at once, of
    which drawn negatives are no part."""
    return spec.architecture != "lifelong" or bool(encoder.log.sampled.any())


def fit(
    spec: ModelSpec, config: TrainingConfig, encoder: SampleEncoder, splits: SplitRows, seed: int, progress: bool = True
) -> Fitted:
    """Train until the LogLoss of the validation samples, of calibrated scores, has not fallen for ``patience`` epochs;
    keep the best epoch, and calibrate it on these samples. A model of whole histories trains all epochs: its learning
    rate is planned over them. The test split is not touched here.
    """
    validation = splits.rows["validation"]
    if not has_windows(spec, encoder):
        epochs = fit_lifelong(
            lambda: cast(Lifelong, new_model(spec, config, encoder).model),
            config, encoder, splits, seed, label=spec.label, progress=progress,
        )  # fmt: skip
    elif spec.architecture == "tree":
        trees = cast(BoostedTrees, new_model(spec, config, encoder).model)
        fit_tree(trees, config, encoder, splits, seed)
        epochs = Epochs(trees, encoder, validation)
        epochs.ended(_logits(trees, encoder, validation))
    else:
        epochs = _fit_windows(spec, config, encoder, splits, seed, progress)
    model = Calibrated(epochs.best().model)
    model.calibrate(torch.from_numpy(epochs.logits), torch.from_numpy(encoder.labels[validation]))
    aucs, losses = ([getattr(of_epoch, name) for of_epoch in epochs.judged] for name in ("auc", "logloss"))
    return Fitted(model.eval(), epochs.number, tuple(aucs), tuple(losses))


def _fit_windows(
    spec: ModelSpec, config: TrainingConfig, encoder: SampleEncoder, splits: SplitRows, seed: int, progress: bool
) -> Epochs:
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = new_model(spec, config, encoder).model
    _standardise(model, encoder, splits, generator)
    optimizer = _optimizer(model, config)
    train, validation = splits.rows["train"], splits.rows["validation"]
    epochs = Epochs(model, encoder, validation)
    dropout = ItemDropout.of(config, encoder, seed)
    steps = -(-len(train) // config.batch_size)
    with Progress(spec.label, config.epochs * steps, "batches", shown=progress) as bar:
        for epoch in range(config.epochs):
            model.train()
            order = generator.permutation(train)
            for at in range(0, len(order), config.batch_size):
                rows = order[at : at + config.batch_size]
                tensors = dropout.applied(encoder.tensors(rows), encoder.log.user[rows], epoch)
                _learn(model, optimizer, tensors, encoder.labels[rows])
                bar.advance()
            epochs.ended(_logits(model, encoder, validation))
            bar.advance(0, str(epochs))
            if epochs.since_best >= config.patience:
                break
        bar.end_early()
    return epochs


def _standardise(model: nn.Module, encoder: SampleEncoder, splits: SplitRows, generator: np.random.Generator) -> None:
    """Give the running features of a network the scale that they have among training samples."""
    running = [module for module in model.modules() if isinstance(module, RunningFeatures)]
    if not running:
        return
    train = splits.rows["train"]
    drawn = generator.choice(train, min(len(train), SCALED_BY), replace=False)
    with torch.inference_mode():
        parts = np.array_split(drawn, -(-len(drawn) // 2048))
        features = torch.cat([running[0].plain(as_torch(encoder.tensors(part))) for part in parts])
    for module in running:
        module.standardise(features)


def seconds_per_batch(
    architecture: Served, config: TrainingConfig, encoder: SampleEncoder, splits: SplitRows, batches: int
) -> float:
    """How long a training batch of a network of windows takes on this machine."""
    model, train = new_model(ModelSpec("", architecture), config, encoder), splits.rows["train"]
    optimizer, generator = _optimizer(model, config), np.random.default_rng(0)
    began = 0.0
    for batch in range(2 + batches):
        if batch == 2:  # the first ones are slower
            began = time.perf_counter()
        rows = generator.choice(train, min(config.batch_size, len(train)))
        _learn(model.train(), optimizer, encoder.tensors(rows), encoder.labels[rows])
    return (time.perf_counter() - began) / batches


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def _learn(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors, labels: FloatArray) -> None:
    """One step on these samples."""
    logits = model(as_torch(tensors))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def predict(model: Calibrated, encoder: SampleEncoder, rows: IntArray, batch_size: int = 2048) -> FloatArray:
    """Probabilities [n] of the samples at these log rows."""
    with torch.inference_mode():
        logits = torch.from_numpy(_logits(model.model, encoder, rows, batch_size))
        return np.asarray(torch.sigmoid(model.calibrated(logits)).numpy())


def _logits(model: nn.Module, encoder: SampleEncoder, rows: IntArray, batch_size: int = 2048) -> FloatArray:
    """What a model, not calibrated, says of the samples at these log rows, [n]."""
    if isinstance(model, Lifelong) and model.process is not None:
        return predict_sequences(model, encoder, rows)
    model.eval()
    with torch.inference_mode():
        parts = [
            model(as_torch(encoder.tensors(rows[at : at + batch_size]))).numpy()
            for at in range(0, len(rows), batch_size)
        ]
    return np.concatenate(parts)
