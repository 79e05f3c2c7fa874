"""Calibration inside a model: logits are stretched and shifted so that scores are the shares they claim to be.

Platt's scaling (Platt, 1999) by a positive slope keeps every order and costs a request nothing that can be measured.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.contract.arrays import FloatArray

_ROUNDS = 50
_LEAST_SLOPE, _LARGEST_SLOPE = 0.1, 10.0
_LEAST_SAMPLES = 50
"""Samples of the rarer label below which two numbers say more of chance than of the model."""


class Calibrated(nn.Module):
    """Calibrated logits [C] of the contract's inputs: ``slope`` times those of ``model``, plus ``offset``. As it is
    made, it changes nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.slope: Tensor
        self.offset: Tensor
        self.register_buffer("slope", torch.ones(1))
        self.register_buffer("offset", torch.zeros(1))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.calibrated(self.model(inputs))

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits [..] of the model as calibrated ones."""
        return self.slope * logits + self.offset

    def calibrate(self, logits: Tensor, labels: Tensor) -> None:
        """Take slope and offset from the model's own logits [n] and labels [n] of samples that it did not learn
        from."""
        slope, offset = scaling(logits, labels)
        self.slope.fill_(slope)
        self.offset.fill_(offset)


def scaling(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Slope and offset of the lowest LogLoss, for logits [n] and labels [n]. 1 and 0, which change nothing, where there
    are fewer than fifty samples of either label, where the order of the logits is no better than none, or where one
    is no number."""
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < _LEAST_SAMPLES or not torch.isfinite(logits).all():
        return 1.0, 0.0
    x, y = logits.double(), labels.double()
    scale, mean = float(x.std().clamp(min=1e-6)), float(x.mean())
    rows = torch.stack([(x - mean) / scale, torch.ones_like(x)], dim=1)
    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(_ROUNDS):  # Newton's steps on a convex function
        chance = torch.sigmoid(rows @ weights)
        curvature = (rows * (chance * (1 - chance)).unsqueeze(1)).T @ rows + 1e-6 * torch.eye(2)
        step = torch.linalg.solve(curvature, rows.T @ (chance - y))
        weights = weights - step
        if float(step.abs().max()) < 1e-9:
            break
    slope = float(weights[0]) / scale
    offset = float(weights[1]) - slope * mean
    if not _LEAST_SLOPE <= slope <= _LARGEST_SLOPE:
        return 1.0, 0.0
    losses = [F.binary_cross_entropy_with_logits(scores, y) for scores in (slope * x + offset, x)]
    return (slope, offset) if losses[0] < losses[1] else (1.0, 0.0)


def calibrated_scores(logits: FloatArray, labels: FloatArray) -> FloatArray:
    """Probabilities [n] of logits [n], calibrated on their own labels [n]."""
    slope, offset = scaling(torch.from_numpy(logits), torch.from_numpy(labels))
    return np.asarray(torch.sigmoid(torch.from_numpy(logits) * slope + offset).numpy())
