"""What each method of knowledge is worth: the same CTR model with and without it, on the same samples.

Every variant is trained with several seeds; the epoch is chosen on the validation split, the test split is scored once
per model. Differences are paired over users (offline/training/bootstrap.py). A finished model is kept, so that a run
that was stopped goes on where it was.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import Array
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import write_json
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import quality
from offline.training.bootstrap import Difference, Resamples, difference
from research.tables import difference_cell, table
from research.trials import Laboratory, Wanted

METHODS = ("liber", "autograph", "marc")
BASE, CONTROL = "base", "plain text"
COLD_BELOW = 20
"""A sample is of a cold user if the user has fewer earlier interactions than this."""


def variants(knowledge: Knowledge) -> dict[str, tuple[str, ...]]:
    """Name -> producers, of what there is knowledge for."""
    names = {"liber": "LIBER", "autograph": "AutoGraph", "marc": "MARC"}
    held = [one for one in METHODS if one in knowledge.produced]
    found: dict[str, tuple[str, ...]] = {BASE: ()}
    if "text" in knowledge.produced:
        found[CONTROL] = ("text",)
    found |= {names[one]: (one,) for one in held}
    if len(held) > 1:
        found["all three" if len(held) == len(METHODS) else " + ".join(names[one] for one in held)] = tuple(held)
        if "text" in knowledge.produced:
            found["all and plain text"] = ("text", *held)
    return found


@dataclass(frozen=True, slots=True)
class Row:
    """One variant. ``against`` maps "base" and "plain text" to differences of AUC; ``slices`` maps "cold" and "warm" to
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
    rows: tuple[Row, ...]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


def run_ablation(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    seeds: int,
    folder: Path,
    workers: int = 1,
) -> Ablation:
    """Train what is not there yet, then judge all of it."""
    laboratory = Laboratory(config, catalogue, log, folder)
    splits = laboratory.splits
    user, test = log.user.astype(np.int64), splits.rows["test"]
    label = (log.value[test] > config.feature_schema.liked_above).astype(np.float32)
    chosen = variants(knowledge)
    scores: dict[str, dict[int, Array]] = {name: {} for name in chosen}
    validation: dict[str, list[float]] = {name: [] for name in chosen}
    wanted = [
        Wanted(config.feature_schema.with_knowledge(producers), knowledge.of(producers), name, seed)
        for seed in range(1, seeds + 1)  # seed by seed, so that a table can be made of any prefix
        for name, producers in chosen.items()
    ]
    for asked, one in zip(wanted, laboratory.trials(wanted, workers), strict=True):
        scores[asked.label][asked.seed] = one.test
        validation[asked.label].append(one.validation_auc)
    position = log.by_user().position[test]
    masks = {"all": np.ones(len(test), np.bool_), "cold": position < COLD_BELOW, "warm": position >= COLD_BELOW}
    aucs = {part: _aucs(scores, label, user[test], mask) for part, mask in masks.items()}
    rows = tuple(_row(name, scores[name], label, user[test], float(np.mean(validation[name])), aucs) for name in chosen)
    sizes = {part: int(mask.sum()) for part, mask in masks.items()}
    return Ablation(config.name, seeds, {split: len(held) for split, held in splits.rows.items()}, sizes, rows)


def _aucs(scores: dict[str, dict[int, Array]], label: Array, user: Array, mask: Array) -> dict[str, Array]:
    """Each variant's AUC on a slice, of the whole and of every resample; empty if the slice cannot be judged."""
    if mask.sum() < 2 or label[mask].min() == label[mask].max():
        return {}
    resamples = Resamples(label[mask], user[mask])
    return {
        name: resamples.mean_auc({seed: one[mask] for seed, one in of_seeds.items()})
        for name, of_seeds in scores.items()
    }


def _row(
    name: str, scores: dict[int, Array], label: Array, user: Array, validation: float, aucs: dict[str, dict[str, Array]]
) -> Row:
    each = [quality(label, one, user) for one in scores.values()]
    of_all = aucs["all"]
    return Row(
        variant=name,
        auc=float(np.mean([one.auc for one in each])),
        logloss=float(np.mean([one.logloss for one in each])),
        gauc=float(np.mean([one.gauc for one in each])),
        spread=float(np.std([one.auc for one in each], ddof=1)) if len(each) > 1 else 0.0,
        validation_auc=validation,
        against={
            other: difference(of_all[name], of_all[other])
            for other in (BASE, CONTROL)
            if other in of_all and other != name
        },
        slices={
            part: (float(found[name][0]), difference(found[name], found[BASE]))
            for part, found in aucs.items()
            if part != "all" and found
        },
    )


def markdown(ablation: Ablation) -> str:
    """The table of docs/knowledge.md."""
    parts = [part for part in ("cold", "warm") if all(part in row.slices for row in ablation.rows)]
    heads = ["variant", "AUC", "± seeds", "LogLoss", "GAUC", "against base [95 %]", "against plain text [95 %]"]
    for part in parts:
        heads += [f"{part} AUC ({ablation.slices[part]:,} rows)", "against base [95 %]"]
    lines: list[list[str]] = []
    for row in ablation.rows:
        cells = [row.variant, f"{row.auc:.4f}", f"{row.spread:.4f}", f"{row.logloss:.4f}", f"{row.gauc:.4f}"]
        cells += [difference_cell(row.against.get(BASE)), difference_cell(row.against.get(CONTROL))]
        for part in parts:
            auc, delta = row.slices[part]
            cells += [f"{auc:.4f}", difference_cell(delta if row.variant != BASE else None)]
        lines.append(cells)
    return table(heads, lines)
