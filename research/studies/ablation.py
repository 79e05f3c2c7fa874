"""The worth of each method of knowledge: the same CTR model with and without it, on the same samples.

Every variant is trained with several seeds; the epoch is chosen on the validation split, the test split is scored once
per model. Differences are paired over users (offline/training/bootstrap.py). A finished model is kept, so that a run
that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from models.contract.arrays import Array, FloatArray
from offline.data.files import write_json
from offline.knowledge.vectors import Knowledge
from offline.metrics import gauc, in_words, quality
from offline.training.bootstrap import Difference, Resamples, difference
from research.tables import difference_cell, table
from research.trials import TrialRunner, TrialSpec

METHODS = ("liber", "autograph", "marc", "groups")
_THREE = METHODS[:3]
BASE, CONTROL = "base", "plain text"
GROUP_IDS = "group id without text"
"""The control of groups: the same groups, each with a random vector in the place of what was said of it."""
COLD_BELOW = 20
"""A sample is of a cold user if the user has fewer earlier interactions than this."""


def variants(knowledge: Knowledge) -> dict[str, tuple[str, ...]]:
    """Name -> producers, of what there is knowledge for."""
    names = {"liber": "LIBER", "autograph": "AutoGraph", "marc": "MARC", "groups": "groups"}
    methods = [method for method in METHODS if method in knowledge.produced]
    chosen: dict[str, tuple[str, ...]] = {BASE: ()}
    if "text" in knowledge.produced:
        chosen[CONTROL] = ("text",)
    chosen |= {names[method]: (method,) for method in methods}
    if "groups" in methods:
        chosen[GROUP_IDS] = ("groups",)
    if len(methods) > 1:
        together = "all three" if tuple(methods) == _THREE else " + ".join(names[method] for method in methods)
        chosen[together] = tuple(methods)
        if "text" in knowledge.produced:
            chosen["all and plain text"] = ("text", *methods)
    return chosen


def knowledge_of(variant: str, producers: Collection[str], knowledge: Knowledge, seed: int) -> Knowledge:
    """What a variant of these producers reads; random vectors are of the ``seed``."""
    of_variant = knowledge.of(producers)
    return _with_group_ids(of_variant, seed) if variant == GROUP_IDS else of_variant


def _with_group_ids(knowledge: Knowledge, seed: int) -> Knowledge:
    """The knowledge with each different vector replaced by a random one of the same mean square."""
    draw, produced = np.random.default_rng(seed), {}
    for name, of in knowledge.produced.items():
        users, items = of.users, of.items
        if items is not None:
            vectors = np.zeros_like(items.vectors)
            vectors[:, items.known] = _redrawn(items.vectors[:, items.known], draw)
            items = replace(items, vectors=vectors)
        if users is not None:
            users = replace(users, vectors=_redrawn(users.vectors, draw))
        produced[name] = replace(of, users=users, items=items)
    return Knowledge(produced)


def _redrawn(vectors: FloatArray, draw: np.random.Generator) -> FloatArray:
    """Vectors [..., dim]: equal ones become equal ones."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    if not len(flat):
        return vectors
    different, group = np.unique(flat, axis=0, return_inverse=True)
    scale = np.sqrt(np.mean(np.square(different, dtype=np.float64)))
    fresh = draw.normal(scale=scale, size=different.shape).astype(np.float32)
    return np.asarray(fresh[group.reshape(-1)].reshape(vectors.shape))


@dataclass(frozen=True, slots=True)
class VariantRow:
    """A variant. ``against`` maps "base" and "plain text" to differences of AUC; ``slices`` maps "cold" and "warm" to
    (AUC, difference to base)."""

    variant: str
    auc: float
    logloss: float
    gauc: float
    spread: float
    validation_auc: float
    against: dict[str, Difference]
    slices: dict[str, tuple[float, Difference]]


@dataclass(frozen=True, slots=True)
class Ablation:
    """All rows, and on how many samples of how many users they were measured."""

    name: str
    seeds: int
    samples: dict[str, int]
    slices: dict[str, int]
    rows: tuple[VariantRow, ...]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    def markdown(self) -> str:
        """The table of docs/knowledge.md."""
        parts = [part for part in ("cold", "warm") if all(part in row.slices for row in self.rows)]
        heads = ["variant", "AUC", "± seeds", "LogLoss", "GAUC", "against base [95 %]", "against plain text [95 %]"]
        for part in parts:
            heads += [f"{part} AUC ({self.slices[part]:,} rows)", "against base [95 %]"]
        lines: list[list[str]] = []
        for row in self.rows:
            cells = [row.variant, in_words(row.auc), in_words(row.spread), f"{row.logloss:.4f}", in_words(row.gauc)]
            cells += [difference_cell(row.against.get(BASE)), difference_cell(row.against.get(CONTROL))]
            for part in parts:
                auc, delta = row.slices[part]
                cells += [f"{auc:.4f}", difference_cell(delta if row.variant != BASE else None)]
            lines.append(cells)
        return table(heads, lines)


def run_ablation(runner: TrialRunner, knowledge: Knowledge, seeds: int, workers: int = 1) -> Ablation:
    """Train what is not there yet, then judge all of it."""
    config, splits = runner.config, runner.splits
    test, (label, user) = splits.rows["test"], runner.test_samples()
    chosen = variants(knowledge)
    scores: dict[str, dict[int, Array]] = {name: {} for name in chosen}
    validation: dict[str, list[float]] = {name: [] for name in chosen}
    specs = [
        TrialSpec(
            config.feature_schema.with_knowledge(producers),
            knowledge_of(name, producers, knowledge, seed),
            name,
            seed,
        )
        for seed in range(1, seeds + 1)  # seed by seed, so that a table can be made of any prefix
        for name, producers in chosen.items()
    ]
    for spec, trial in zip(specs, runner.trials(specs, workers), strict=True):
        scores[spec.label][spec.seed] = trial.test
        validation[spec.label].append(trial.validation_auc)
    position = runner.log.by_user().position[test]
    masks = {"all": np.ones(len(test), np.bool_), "cold": position < COLD_BELOW, "warm": position >= COLD_BELOW}
    aucs = {part: _aucs(scores, label, user, mask) for part, mask in masks.items()}
    rows = tuple(_row(name, scores[name], label, user, float(np.mean(validation[name])), aucs) for name in chosen)
    sizes = {part: int(mask.sum()) for part, mask in masks.items()}
    return Ablation(config.name, seeds, {split: len(rows_of) for split, rows_of in splits.rows.items()}, sizes, rows)


def _aucs(scores: dict[str, dict[int, Array]], label: Array, user: Array, mask: Array) -> dict[str, Array]:
    """Each variant's AUC on a slice, of the whole and of every resample; empty if the slice cannot be judged."""
    if mask.sum() < 2 or label[mask].min() == label[mask].max():
        return {}
    resamples = Resamples(label[mask], user[mask])
    return {
        name: resamples.mean_auc({seed: score[mask] for seed, score in of_seeds.items()})
        for name, of_seeds in scores.items()
    }


def _row(
    name: str, scores: dict[int, Array], label: Array, user: Array, validation: float, aucs: dict[str, dict[str, Array]]
) -> VariantRow:
    each = [quality(label, score, user) for score in scores.values()]
    of_all = aucs["all"]
    return VariantRow(
        variant=name,
        auc=float(np.mean([measures.auc for measures in each])),
        logloss=float(np.mean([measures.logloss for measures in each])),
        gauc=float(np.mean([gauc(label, score, user, least=1) for score in scores.values()])),
        spread=float(np.std([measures.auc for measures in each], ddof=1)) if len(each) > 1 else 0.0,
        validation_auc=validation,
        against={
            other: difference(of_all[name], of_all[other])
            for other in (BASE, CONTROL)
            if other in of_all and other != name
        },
        slices={
            part: (float(aucs_of[name][0]), difference(aucs_of[name], aucs_of[BASE]))
            for part, aucs_of in aucs.items()
            if part != "all" and aucs_of
        },
    )
