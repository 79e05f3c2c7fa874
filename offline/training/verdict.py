"""The verdict on a served model: how it compares with every other row of the quality table, and one plain sentence if
something speaks against it, with what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.contract.arrays import Array, FloatArray
from offline.metrics import log_losses
from offline.training.bootstrap import Difference, Resamples, difference

FEW_SAMPLES = 20_000
"""Training samples below which more of them are the first thing to wish for."""

MANY_UNSEEN = 0.2
"""Share of test samples of unseen items above which these decide."""

RivalKind = Literal["tree", "network", "plain", "baseline"]


@dataclass(frozen=True, slots=True)
class Rival:
    """Another model of the quality table: the served one's ``auc`` and ``logloss`` minus its own. ``plain`` is the
    served one's architecture without knowledge."""

    model: str
    kind: RivalKind
    auc: Difference
    logloss: Difference

    @property
    def is_better(self) -> bool:
        """Whether it is shown to order better, or to give better probabilities, than the served model."""
        return self.auc.high < 0 or self.logloss.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether it is shown to order worse, or where one label leaves that open, to give worse probabilities."""
        return self.auc.low > 0 if self.auc.is_defined else self.logloss.high < 0

    def __str__(self) -> str:
        return f"served minus it: AUC {self.auc}, LogLoss {self.logloss}"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a remedy depends on: number of training samples, share of test samples of ``unseen`` items, the median
    ``history`` of samples and the length that is ``read``, whether the schema has running features, and whether "auto"
    chose the model."""

    training_samples: int
    unseen: float
    history: float
    read: int
    running: bool
    auto: bool

    def another_choice(self) -> str:
        """How another architecture comes to be served."""
        if self.auto:
            return "choose anew (`python -m offline refresh --choose`)"
        return 'let a training choose (training.served = "auto")'

    def remedies(self) -> str:
        """What may make the served model better, the likeliest first."""
        remedies = []
        if not self.running:
            remedies.append("add running features ([feature_schema.running])")
        if self.unseen > MANY_UNSEEN:
            remedies.append(
                f"look at unseen items, {self.unseen:.0%} of the test samples: only fields, texts and knowledge tell "
                "them from each other"
            )
        if self.history > self.read:
            setting = "training.choice.window or history_length" if self.auto else "history_length"
            remedies.append(f"read longer histories ({setting} is {self.read}, the median is {self.history:.0f})")
        if self.training_samples < FEW_SAMPLES:
            remedies.append(f"wait for more data ({self.training_samples:,} training samples)")
        return ", or ".join(remedies) or self.another_choice()


def verdict(served: str, rivals: Sequence[Rival], circumstances: Circumstances) -> str:
    """The first of these that holds, "" if none does: a baseline is shown better; trees are; the same model without
    knowledge is; another network is; the baseline is not shown worse; trees are not; another model has the higher AUC
    by chance."""
    better: dict[RivalKind, Rival] = {}
    equal = {rival.kind: rival for rival in rivals if not rival.is_worse}
    for each in rivals:
        if each.is_better and (each.kind not in better or each.auc.middle < better[each.kind].auc.middle):
            better[each.kind] = each
    choose = circumstances.another_choice()
    if rival := better.get("baseline"):
        return (
            f"{served} is worse than {rival.model} ({rival}): do not let it go live; check labels, times and ids "
            f"(`python -m offline validate`), then {circumstances.remedies()}"
        )
    if rival := better.get("tree"):
        return f'{rival.model} beat {served} ({rival}): serve that (training.served = "tree"), or {choose}'
    if rival := better.get("plain"):
        return f"{served} is better without its knowledge ({rival}): take what harms out of feature_schema.knowledge"
    if rival := better.get("network"):
        return f"{rival.model} beat {served} ({rival}): set training.served to it, or {choose}"
    if rival := equal.get("baseline"):
        return f"{served} is not shown better than {rival.model} ({rival}): {circumstances.remedies()}"
    if rival := equal.get("tree"):
        return (
            f"{served} is not shown better than {rival.model} ({rival}), which costs less to train and to serve: serve "
            f'that (training.served = "tree"), or {circumstances.remedies()}'
        )
    ahead = [rival for rival in rivals if rival.auc.middle < 0]
    if ahead:
        best = min(ahead, key=lambda rival: rival.auc.middle)
        return f"{best.model} has a higher AUC than {served}, but that may be chance ({best}): nothing has to be done"
    return ""


def rivals(
    label: Array, user: Array, scores: Mapping[str, Mapping[int, FloatArray]], kinds: Mapping[str, RivalKind]
) -> list[Rival]:
    """The served model, the first of ``scores``, against the others: test scores [n] by model and seed, the mean over
    seeds of each measure. ``kinds`` of all others by model."""
    resamples = Resamples(label, user)
    measures = {
        model: (
            resamples.mean_auc(of_seeds),
            np.mean([resamples.mean(log_losses(label, score)) for score in of_seeds.values()], axis=0),
        )
        for model, of_seeds in scores.items()
    }
    served, *others = measures
    area, loss = measures[served]
    return [
        Rival(model, kinds[model], difference(area, measures[model][0]), difference(loss, measures[model][1]))
        for model in others
    ]
