"""Fitting a process of ratings (``models.ctr.ratings``) by the likelihood of every value given those before it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.contract.arrays import FloatArray, IntArray
from models.contract.encoding import Tensors
from models.ctr.ratings import RatingProcess
from offline.config import LifelongConfig
from offline.training.sequences import SequenceEncoder

JUDGED_TOKENS = 16_384
"""Events in a batch without gradients."""


def fit_process(
    process: RatingProcess, config: LifelongConfig, sequences: SequenceEncoder, rows: IntArray, seed: int
) -> None:
    """Fit ``process`` to the samples at these log rows."""
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


def beliefs(process: RatingProcess, sequences: SequenceEncoder, rows: IntArray) -> FloatArray:
    """Mean and deviation of the value of each sample, [log rows, 2]; zeros but at ``rows``."""
    moments = np.zeros((sequences.log_rows, 2), np.float32)
    with torch.inference_mode():
        for batch in sequences.once(rows, JUDGED_TOKENS):
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
