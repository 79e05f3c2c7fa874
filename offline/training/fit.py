"""Fitting one CTR model: AdamW on binary cross-entropy, early stopping on the validation split."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from models.contract.arrays import FloatArray, IntArray
from models.ctr.build import Architecture, build_model
from models.ctr.features import ModelSettings
from models.ctr.lifelong import Lifelong
from models.ctr.running import RunningFeatures
from models.ctr.tree import BoostedTrees
from offline.config import TrainingConfig
from offline.metrics import Quality, auc, best_epoch, in_words, quality
from offline.progress import Progress
from offline.training.lifelong import SCALED_BY, as_torch, fit_lifelong, predict_sequences
from offline.training.samples import SampleEncoder, SplitRows
from offline.training.tree import fit_tree


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to train; ``label`` names it in reports. ``producers`` None: it reads all knowledge there is."""

    label: str
    architecture: Architecture
    producers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model in evaluation mode, with its validation AUC per epoch, NaN where one label leaves it undefined;
    ``epoch`` is the best one, whose weights it has."""

    model: nn.Module
    epoch: int
    validation_auc: tuple[float, ...]


def new_model(spec: ModelSpec, config: TrainingConfig, encoder: SampleEncoder) -> nn.Module:
    """An untrained model of ``spec`` for the encoder's schema and catalogue."""
    dim, own = config.embedding_dim, config.lifelong
    settings = ModelSettings(dim, config.dropout, config.knowledge_dropout, config.fusion, own.factors, own.attention)
    return build_model(spec.architecture, encoder.schema, int(encoder.table.index.max()) + 1, settings)


def fit(
    spec: ModelSpec, config: TrainingConfig, encoder: SampleEncoder, splits: SplitRows, seed: int, progress: bool = True
) -> Fitted:
    """Train until the validation AUC has not risen for ``patience`` epochs; keep the best epoch. Where the validation
    samples have one label, LogLoss takes its place. "lifelong" trains all epochs: its learning rate is planned over
    them. The test split is not touched here.
    """
    if spec.architecture == "lifelong":
        lifelong, best_of_all, auc_of_epoch = fit_lifelong(
            lambda: cast(Lifelong, new_model(spec, config, encoder)),
            config, encoder, splits, seed, label=spec.label, progress=progress,
        )  # fmt: skip
        return Fitted(lifelong, best_of_all, auc_of_epoch)
    if spec.architecture == "tree":
        trees = cast(BoostedTrees, new_model(spec, config, encoder))
        rounds, _ = fit_tree(trees, config.tree, encoder, splits, seed)
        validation = splits.rows["validation"]
        area = auc(encoder.labels[validation], predict(trees, encoder, validation))
        return Fitted(trees.eval(), rounds, (area,))
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = new_model(spec, config, encoder)
    _standardise(model, encoder, splits, generator)
    optimizer = _optimizer(model, config)
    train, validation = splits.rows["train"], splits.rows["validation"]
    best: dict[str, torch.Tensor] = {}
    judged: list[Quality] = []
    steps = -(-len(train) // config.batch_size)
    with Progress(spec.label, config.epochs * steps, "batches", shown=progress) as bar:
        for epoch in range(config.epochs):
            model.train()
            order = generator.permutation(train)
            for at in range(0, len(order), config.batch_size):
                _learn(model, optimizer, encoder, order[at : at + config.batch_size])
                bar.advance()
            scores = predict(model, encoder, validation)
            judged.append(quality(encoder.labels[validation], scores, encoder.log.user[validation]))
            bar.advance(0, f"validation AUC {in_words(judged[-1].auc)}")
            if epoch == best_epoch(judged):
                best = copy.deepcopy(model.state_dict())
            elif epoch - best_epoch(judged) >= config.patience:
                break
        bar.end_early()
    model.load_state_dict(best)
    return Fitted(model.eval(), best_epoch(judged), tuple(epoch.auc for epoch in judged))


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


def seconds_per_batch(config: TrainingConfig, encoder: SampleEncoder, splits: SplitRows, batches: int) -> float:
    """How long a training batch of the served architecture, a network of windows, takes on this machine."""
    model, train = new_model(ModelSpec("", config.served), config, encoder), splits.rows["train"]
    optimizer, generator = _optimizer(model, config), np.random.default_rng(0)
    began = 0.0
    for batch in range(2 + batches):
        if batch == 2:  # the first ones are slower
            began = time.perf_counter()
        _learn(model.train(), optimizer, encoder, generator.choice(train, min(config.batch_size, len(train))))
    return (time.perf_counter() - began) / batches


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def _learn(model: nn.Module, optimizer: torch.optim.Optimizer, encoder: SampleEncoder, rows: IntArray) -> None:
    """One step on the samples at these log rows."""
    logits = model(as_torch(encoder.tensors(rows)))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(encoder.labels[rows]))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def predict(model: nn.Module, encoder: SampleEncoder, rows: IntArray, batch_size: int = 2048) -> FloatArray:
    """Probabilities of the samples at these log rows."""
    if isinstance(model, Lifelong):
        return predict_sequences(model, encoder, rows)
    model.eval()
    with torch.inference_mode():
        parts = [
            torch.sigmoid(model(as_torch(encoder.tensors(rows[at : at + batch_size])))).numpy()
            for at in range(0, len(rows), batch_size)
        ]
    return np.concatenate(parts)
