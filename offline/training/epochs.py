"""The epochs of a training, judged by the LogLoss of the validation samples once scores are calibrated on them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from models.contract.arrays import FloatArray, IntArray
from models.ctr.calibration import calibrated_scores
from offline.metrics import Quality, best_epoch, in_words, quality
from offline.training.samples import SampleEncoder


class Epochs:
    """Finished epochs of ``model``, judged on the samples at log rows ``rows``; the best one's weights are kept."""

    def __init__(self, model: nn.Module, encoder: SampleEncoder, rows: IntArray) -> None:
        self.model, self.judged = model, list[Quality]()
        self.logits: FloatArray
        self._labels, self._users = encoder.labels[rows], encoder.log.user[rows]
        self._weights: dict[str, torch.Tensor] = {}

    @property
    def number(self) -> int:
        """That of the best epoch, from 0."""
        return best_epoch(self.judged)

    @property
    def since_best(self) -> int:
        """Epochs that came after the best one."""
        return len(self.judged) - 1 - self.number

    def ended(self, logits: FloatArray) -> None:
        """An epoch has ended; ``logits`` [n] are what the model says of the samples now."""
        self.judged.append(quality(self._labels, calibrated_scores(logits, self._labels), self._users))
        if not self.since_best:
            self._weights, self.logits = copy.deepcopy(self.model.state_dict()), logits

    def best(self) -> Epochs:
        """These epochs, once the model has the weights of the best one and is in evaluation mode; ``logits`` are what
        that one said."""
        self.model.load_state_dict(self._weights)
        self.model.eval()
        return self

    def __str__(self) -> str:
        last = self.judged[-1]
        return f"validation LogLoss {last.logloss:.4f}, AUC {in_words(last.auc)}"
