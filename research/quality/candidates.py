"""Trained models put together to candidates, each with its seeds' scores in the order of the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import Array
from offline.data.catalogue import DataError
from offline.metrics import auc
from offline.training.samples import SplitRows
from research.quality.evaluation import Candidate, EvaluatedSplit
from research.quality.predictions import Family, Trained


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The seeds of a candidate, rising. ``scores`` [n] of each on the split; ``validation_auc`` their mean, None if one
    of them has none."""

    candidate: Candidate
    members: tuple[Trained, ...]
    scores: tuple[Array, ...]
    validation_auc: float | None

    @property
    def family(self) -> Family:
        return self.members[0].family

    @property
    def stands(self) -> bool:
        """Whether it counts where one is picked: frozen statistics, all training rows."""
        return self.candidate.statistics == "frozen" and self.candidate.share == 1


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidates with scores of the split, the ``label`` [n] of its samples, and who has no scores of it."""

    groups: tuple[Group, ...]
    label: Array
    left_out: tuple[Candidate, ...]

    def best(self, family: Family) -> Group | None:
        """The best of a family on the validation split, None if none of it has a validation AUC."""
        of_family = [group for group in self.groups if group.family == family and group.stands]
        picks = [group for group in of_family if group.validation_auc is not None]
        return max(picks, key=lambda group: group.validation_auc or 0.0, default=None)


def candidates(trained: Sequence[Trained], splits: SplitRows, split: EvaluatedSplit) -> Candidates:
    """DataError if models do not belong together or to these samples, or nobody has scores of the split."""
    by_candidate: dict[Candidate, list[Trained]] = {}
    for model in sorted(trained, key=lambda model: (model.model, model.statistics, model.share, model.seed)):
        by_candidate.setdefault(Candidate(model.model, model.statistics, model.share), []).append(model)
    labels: list[Array] = []
    groups: list[Group] = []
    left_out: list[Candidate] = []
    for candidate, members in by_candidate.items():
        _check(candidate, members)
        answered = tuple(member for member in members if _has(member, split))
        if not answered:
            left_out.append(candidate)
            continue
        answers = [_answers(member, splits, split) for member in answered]
        labels += [label for label, _ in answers]
        scores = tuple(score for _, score in answers)
        groups.append(Group(candidate, answered, scores, _validation_auc(answered, splits)))
    if not labels:
        raise DataError(f"no model has scores of the {split} split")
    if any(not np.array_equal(labels[0], other) for other in labels):
        raise DataError(f"models disagree about the labels of the {split} split")
    if labels[0].min() == labels[0].max():
        raise DataError(f"the {split} split has one label only")
    return Candidates(tuple(groups), labels[0], tuple(left_out))


def _check(candidate: Candidate, members: Sequence[Trained]) -> None:
    if len({member.seed for member in members}) != len(members):
        raise DataError(f"{candidate} is there twice with one seed: delete what is out of date")
    if len({(member.family, member.circumstances) for member in members}) != 1:
        raise DataError(
            f"the seeds of {candidate} were trained under different circumstances: delete what is out of date"
        )


def _has(model: Trained, split: EvaluatedSplit) -> bool:
    return bool((model.split == split).any())


def _answers(model: Trained, splits: SplitRows, split: EvaluatedSplit) -> tuple[Array, Array]:
    """(label [n], score [n]) in the order of the split's rows."""
    rows = splits.rows[split]
    scored = np.flatnonzero(model.split == split)
    scored = scored[np.argsort(model.rows[scored])]
    order = np.argsort(rows)
    if not np.array_equal(model.rows[scored], rows[order]):
        raise DataError(f"{model.model}, seed {model.seed}, has scored other samples than those of the {split} split")
    places = np.empty(len(rows), np.int64)
    places[order] = scored
    return model.label[places], model.score[places]


def _validation_auc(members: Sequence[Trained], splits: SplitRows) -> float | None:
    """Of the validation scores themselves where they were kept, else of the best epoch."""
    aucs = []
    for member in members:
        scored = _has(member, "validation")
        label, score = _answers(member, splits, "validation") if scored else (np.zeros(0), np.zeros(0))
        if label.any() and not label.all():
            aucs.append(auc(label, score))
        elif member.epochs:
            aucs.append(max(member.epochs))
    return float(np.mean(aucs)) if len(aucs) == len(members) else None
