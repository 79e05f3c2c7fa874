"""Importance of what a model reads, by ablation without training anew: a group of inputs is exchanged between samples
at random, so that each input is distributed as before and says nothing of its sample any more (Breiman, Machine
Learning 45, 2001, section 10), and the quality that is lost by it is measured.

Groups overlap, and inputs that say the same stand in for each other: losses do not add up, and a small one does not say
that a model trained without the group would be as good.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from models.contract.arrays import FloatArray, IntArray
from models.contract.encoding import HISTORY_INPUTS, RUNNING_INPUTS, Tensors
from models.ctr.build import Architecture, reads
from offline.metrics import log_losses
from offline.training.bootstrap import Difference, Resamples, difference
from offline.training.lifelong import as_torch
from offline.training.samples import SampleEncoder
from offline.training.validation import of_drawn_users

MOST_ROWS = 2_000
"""Samples that are looked at, give or take those of one user: of whole users, drawn by chance."""

_MOST_EVENTS = 1_000_000
"""Events in the histories of all of them together: a model reads each a dozen times."""

_EVENTS_AT_ONCE = 8_192

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "item id": ("item_index",),
        "item fields": ("item_categorical",),
        "item statistics": ("item_numeric",),
        "item knowledge": ("item_vectors", "history_vectors"),
        "user fields": ("user_categorical",),
        "user statistics": ("user_numeric",),
        "user knowledge": ("user_vectors", "partition_vectors", "partition_mask"),
        "whole history": HISTORY_INPUTS,
        "values of the history": ("history_value",),
        "times and repeats": RUNNING_INPUTS,
    }
)
"""Inputs of the contract by what they say. "Whole history" is that of another sample, its length included; of other
groups, a history keeps its length. "Times and repeats" are what running features alone read."""


def importance(
    model: nn.Module, architecture: Architecture, encoder: SampleEncoder, rows: IntArray, most: int = MOST_ROWS
) -> list[dict[str, Any]]:
    """A row for each group that the model reads, the largest loss of LogLoss first: ``group``, and with a paired 95 %
    interval over users (middle, low, high) what ``auc`` loses and what ``logloss`` gains without it.

    ``rows`` are the log rows of samples that the model was not trained on; of ``most`` of them, fewer where histories
    are long. None stands for what samples of one label leave undefined."""
    length = np.minimum(encoder.index.position[rows], encoder.schema.history_length)
    affordable = int(_MOST_EVENTS / max(float(length.mean()), 1.0))
    rows = of_drawn_users(encoder.log.user, rows, min(most, affordable))
    label, scores = encoder.labels[rows], _scores(model, reads(architecture, encoder.schema), encoder, rows)
    resamples = Resamples(label, encoder.log.user[rows])
    usual = scores.pop("")
    area, loss = resamples.auc(usual), resamples.mean(log_losses(label, usual))
    table = []
    for group, without in scores.items():
        lost = difference(area, resamples.auc(without))
        gained = difference(resamples.mean(log_losses(label, without)), loss)
        table.append({"group": group, "auc": bounds(lost), "logloss": bounds(gained)})
    return sorted(table, key=lambda row: -row["logloss"][0])


def bounds(change: Difference) -> list[float] | None:
    """A difference for JSON, which has no NaN: middle, low, high; None for what is not defined."""
    return [change.middle, change.low, change.high] if change.is_defined else None


def _scores(model: nn.Module, read: tuple[str, ...], encoder: SampleEncoder, rows: IntArray) -> dict[str, FloatArray]:
    """Probabilities [n] of the samples at these log rows: as they are under "", and for each group without it."""
    donor = np.random.default_rng(0).permutation(len(rows))
    order = np.argsort(encoder.index.position[rows], kind="stable")  # histories of one length together: little padding
    batch = max(_EVENTS_AT_ONCE // encoder.schema.history_length, 1)
    scores: dict[str, FloatArray] = {}
    model.eval()
    for places in np.array_split(order, -(-len(order) // batch)):
        own, other = (
            {name: values for name, values in encoder.tensors(chosen).items() if name in read}
            for chosen in (rows[places], rows[donor[places]])
        )
        variants = {"": own}
        for group, inputs in GROUPS.items():
            if names := [name for name in inputs if name in own and own[name].size]:
                variants[group] = {**own, **_exchanged(own, other, names)}
        for group, tensors in variants.items():
            with torch.inference_mode():
                of_batch = torch.sigmoid(model(as_torch(tensors))).numpy()
            scores.setdefault(group, np.zeros(len(rows), np.float32))[places] = of_batch
    return scores


def _exchanged(own: Tensors, other: Tensors, names: list[str]) -> Tensors:
    """The inputs ``names`` of other samples in place of one's own. Where they say something of events, but not which
    events there are, the last event gets what is said of the other's last, and so on; shorter histories begin again."""
    if "history_mask" in names:
        return {name: other[name] for name in names}
    length = own["history_mask"].sum(axis=1).astype(np.int64)[:, None]
    donated = np.maximum(other["history_mask"].sum(axis=1).astype(np.int64), 1)[:, None]
    ago = np.maximum(length - 1 - np.arange(own["history_mask"].shape[1]), 0)
    place, samples = donated - 1 - ago % donated, np.arange(len(length))[:, None]
    exchanged: Tensors = {}
    for name in names:
        values = other[name]
        if name in HISTORY_INPUTS:
            present = own["history_mask"].reshape(*own["history_mask"].shape, *[1] * (values.ndim - 2)) > 0
            values = np.where(present, values[samples, place], np.zeros(1, values.dtype))
        exchanged[name] = values
    return exchanged
