"""All models of a configuration on the same samples: the quality table, and the artifact of the served one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.contract.arrays import Array, FloatArray, IntArray
from models.ctr.build import Architecture
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import auc, quality
from offline.training.artifact import export_artifact, weights_version, write_artifact
from offline.training.bootstrap import Resamples, difference
from offline.training.fit import Fitted, ModelSpec, fit, new_model, predict
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, split_samples
from offline.training.slices import repeats, slice_table, without_nan
from offline.training.validation import popularity_scores

_COMPARED: tuple[Architecture, ...] = ("din", "dcnv2", "deepfm")

POPULARITY = "popularity (share of likes)"
CHANCE = "chance (negatives are drawn by popularity)"
"""Names of the two baselines in the quality table. Negatives that are drawn by popularity are as popular as positives,
and more so than new ones: a ranking by popularity is then below chance, whatever it would be worth to a user."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Scores [n] of the test samples that need no model."""

    name: str
    scores: FloatArray


def specs(config: JobConfig) -> list[ModelSpec]:
    """The served model first, then (``compare``) its rivals."""
    names: dict[Architecture, str] = {
        "din": "DIN (target attention)",
        "dcnv2": "DCNv2",
        "deepfm": "DeepFM",
        "lifelong": "whole histories",
        "tree": "boosted trees",
    }
    served = config.training.served
    chosen = [ModelSpec(f"{names[served]} + knowledge", served)]
    if config.training.compare:
        chosen.append(ModelSpec(f"{names[served]}, no knowledge", served, ()))
        chosen += [ModelSpec(f"{names[key]} + knowledge", key) for key in _COMPARED if key != served]
    return chosen


def encoders(
    config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, trained_rows: int
) -> dict[tuple[str, ...] | None, SampleEncoder]:
    """One encoder per choice of producers among the configured models."""
    schema = knowledge.schema(config.feature_schema)
    return {
        producers: SampleEncoder(
            schema if producers is None else schema.with_knowledge(producers), catalogue, log, knowledge, trained_rows
        )
        for producers in {spec.producers for spec in specs(config)}
    }


def train(
    config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, folder: Path
) -> TrainingReport:
    """Train, judge and export. Writes the artifact, the served model's weights, test predictions and report.json."""
    splits, chosen = split_samples(config.samples, log), specs(config)
    encoder_of = encoders(config, catalogue, log, knowledge, splits.trained_rows)
    served = chosen[0]
    encoder, rows = encoder_of[served.producers], splits.rows["test"]
    label, user = encoder.labels[rows], log.user[rows]
    fitted: dict[tuple[str, int], Fitted] = {}
    scores: dict[tuple[str, int], FloatArray] = {}
    for spec in chosen:
        for seed in config.training.seeds:
            trained = fit(spec, config.training, encoder_of[spec.producers], splits, seed)
            fitted[spec.label, seed] = trained
            scores[spec.label, seed] = predict(trained.model, encoder_of[spec.producers], rows)
    baseline = Baseline(POPULARITY, popularity_scores(encoder, rows))
    if config.data.labels.draws_by_popularity:
        share = encoder.labels[splits.rows["train"]].mean()
        baseline = Baseline(CHANCE, np.full(len(rows), share, np.float32))
    table = _table(config, fitted, scores, baseline, label, user)

    best = max(config.training.seeds, key=lambda seed: max(fitted[served.label, seed].validation_auc))
    best_fit = fitted[served.label, best]
    measures = {"validation_auc": max(best_fit.validation_auc), "test_auc": auc(label, scores[served.label, best])}
    metrics = {name: area for name, area in measures.items() if not np.isnan(area)}
    content, worst = export_artifact(config.name, served, best_fit.model, encoder, knowledge, splits, metrics)
    artifact = write_artifact(config.name, content, folder)
    torch.save(best_fit.model.state_dict(), folder / f"{artifact.name}.pt")
    write_arrays(
        folder / "test_predictions.npz",
        rows=rows,
        label=label,
        baseline=baseline.scores,
        **{f"{name}/seed{seed}": score for (name, seed), score in scores.items()},
    )
    report = TrainingReport(
        log_rows=len(log),
        trained_rows=splits.trained_rows,
        trained_until_ms=int(log.time_ms[splits.trained_rows - 1]),
        samples={split: len(of_split) for split, of_split in splits.rows.items()},
        artifact=artifact.name,
        sha256=artifact.sha256,
        model_version=weights_version(best_fit.model),
        parity=worst,
        metrics=metrics,
        table=table,
        parts=artifact.parts,
        split=config.data.split_words + splits.note,
        notes=_notes(config, log, rows),
        slices=slice_table(log, splits.trained_rows, rows, label, scores[served.label, best], baseline.scores),
    )
    report.save(folder / "report.json")
    return report


def load_served(config: JobConfig, report: TrainingReport, encoder: SampleEncoder, folder: Path) -> torch.nn.Module:
    """The served model as torch holds it, to compare the service's answers with."""
    model = new_model(specs(config)[0], config.training, encoder)
    model.load_state_dict(torch.load(folder / f"{report.artifact}.pt", weights_only=True))
    return model.eval()


def _notes(config: JobConfig, log: InteractionLog, rows: IntArray) -> list[str]:
    """What a reader of the quality table has to know of the test samples at these log rows."""
    observed = rows[np.logical_not(log.sampled[rows])]
    share = repeats(log)[observed].mean() if len(observed) else 0.0
    notes = [f"{share:.1%} of the test interactions repeat an item of their user"]
    if config.data.labels.draws_by_popularity:
        notes.append("negatives are drawn by popularity, so that popularity says nothing here; chance is the baseline")
    return notes


def _table(
    config: JobConfig,
    fitted: dict[tuple[str, int], Fitted],
    scores: dict[tuple[str, int], FloatArray],
    baseline: Baseline,
    label: FloatArray,
    user: Array,
) -> list[dict[str, Any]]:
    """One row per model; several seeds are averaged. Differences are against the served architecture without knowledge,
    or against the baseline where that was not trained."""
    seeds = config.training.seeds
    resamples = Resamples(label, user)
    plain = next((spec.label for spec in specs(config) if spec.producers == ()), None)
    reference = resamples.mean_auc({seed: scores[plain, seed] if plain else baseline.scores for seed in seeds})
    table = []
    for spec in specs(config):
        each = [asdict(quality(label, scores[spec.label, seed], user)) for seed in seeds]
        measures = {
            "validation_auc": float(np.mean([max(fitted[spec.label, seed].validation_auc) for seed in seeds])),
            **{name: float(np.mean([measures[name] for measures in each])) for name in each[0]},
        }
        row: dict[str, Any] = {"model": spec.label, **without_nan(measures)}
        if spec.label != plain:
            gain = difference(resamples.mean_auc({seed: scores[spec.label, seed] for seed in seeds}), reference)
            row |= {"difference": (gain.middle, gain.low, gain.high)} if gain.is_defined else {}
        table.append(row)
    of_baseline = asdict(quality(label, baseline.scores, user))
    table.append({"model": baseline.name, **without_nan(of_baseline)})
    return table
