"""All models of a configuration on the same samples: the choice among them, the quality table, and the artifact of the
served one."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.contract.arrays import Array, FloatArray, IntArray
from models.ctr.calibration import Calibrated
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import GAUC_SAMPLES, auc, log_losses, quality
from offline.training.artifact import export_artifact, weights_version, write_artifact
from offline.training.bootstrap import Resamples, difference
from offline.training.candidates import TREE, Choice, ModelSpec, as_trained, save_choice, specs
from offline.training.choose import choice_lines, choose
from offline.training.diagnosis import Judged, diagnose
from offline.training.fit import Fitted, fit, new_model, predict
from offline.training.page import write_page
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, split_samples
from offline.training.slices import repeats, without_nan
from offline.training.validation import popularity_scores

POPULARITY = "popularity (share of likes)"
CHANCE = "chance (negatives are drawn by popularity)"
"""Names of the two baselines in the quality table. Negatives that are drawn by popularity are as popular as positives,
and more so than new ones: a ranking by popularity is then below chance, whatever it would be worth to a user."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Scores [n] of the test samples that need no model."""

    name: str
    scores: FloatArray


def encoders(
    config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, trained_rows: int
) -> dict[str, SampleEncoder]:
    """The encoder of each configured model, by its label; models of one schema share it."""
    of_knowledge = knowledge.schema(config.feature_schema)
    schemas = {spec.label: spec.schema(config, of_knowledge) for spec in specs(config)}
    encoder_of = {
        schema.fingerprint: SampleEncoder(schema, catalogue, log, knowledge, trained_rows)
        for schema in {schema.fingerprint: schema for schema in schemas.values()}.values()
    }
    return {label: encoder_of[schema.fingerprint] for label, schema in schemas.items()}


def train(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    folder: Path,
    choice: Choice | None = None,
) -> TrainingReport:
    """Train, judge and export. Writes the artifact, the served model's weights, test predictions and report.json.

    With ``served = "auto"`` the architecture is that of ``choice``, or, without one, chosen first.
    """
    if config.training.served == "auto":
        if choice is None:
            choice = choose(config, catalogue, log, knowledge)
            save_choice(choice, folder)
            print("\n".join(choice_lines(choice, config.training.choice.ceiling_ms)), flush=True)
        config = as_trained(config, choice.architecture)
    splits, chosen = split_samples(config.samples, log), specs(config)
    encoder_of = encoders(config, catalogue, log, knowledge, splits.trained_rows)
    served = chosen[0]
    encoder, rows = encoder_of[served.label], splits.rows["test"]
    label, user = encoder.labels[rows], log.user[rows]
    fitted: dict[tuple[str, int], Fitted] = {}
    scores: dict[tuple[str, int], FloatArray] = {}
    seconds: dict[str, float] = {}
    for spec in chosen:
        began = time.perf_counter()
        for seed in seeds_of(spec, config):
            trained = fit(spec, config.training, encoder_of[spec.label], splits, seed)
            fitted[spec.label, seed] = trained
            scores[spec.label, seed] = predict(trained.model, encoder_of[spec.label], rows)
        seconds[spec.label] = time.perf_counter() - began
    baseline = Baseline(POPULARITY, popularity_scores(encoder, rows))
    if config.data.labels.draws_by_popularity:
        share = encoder.labels[splits.rows["train"]].mean()
        baseline = Baseline(CHANCE, np.full(len(rows), share, np.float32))
    table = _table(config, fitted, scores, seconds, baseline, label, user)

    best = min(config.training.seeds, key=lambda seed: fitted[served.label, seed].logloss)
    best_fit = fitted[served.label, best]
    measures = {"validation_auc": best_fit.auc, "test_auc": auc(label, scores[served.label, best])}
    metrics = {name: area for name, area in measures.items() if not np.isnan(area)}
    content, worst = export_artifact(config.name, served, best_fit.model, encoder, knowledge, splits, metrics)
    artifact = write_artifact(config.name, content, folder)
    if artifact.unsplit:
        print(f"the model will be served as a whole: {artifact.unsplit}")
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
        architecture=served.architecture,
        choice={} if choice is None else choice.document(),
        epochs=[
            without_nan({"logloss": loss, "auc": area})
            for loss, area in zip(best_fit.validation_logloss, best_fit.validation_auc, strict=True)
        ],
    )
    judged = Judged(config, chosen, encoder, splits, best_fit.model, best, scores, (baseline.name, baseline.scores))
    report = diagnose(report, judged, folder / "report.json")
    report.save(folder / "report.json")
    write_page(report, folder)
    return report


def load_served(config: JobConfig, report: TrainingReport, encoder: SampleEncoder, folder: Path) -> Calibrated:
    """The served model as torch holds it, to compare the service's answers with."""
    config = as_trained(config, report.architecture)
    model = new_model(specs(config)[0], config.training, encoder)
    model.load_state_dict(torch.load(folder / f"{report.artifact}.pt", weights_only=True))
    return model.eval()


def seeds_of(spec: ModelSpec, config: JobConfig) -> tuple[int, ...]:
    """Seeds of a model's trainings. Trees differ by nothing but drawn samples, so that one seed does."""
    return config.training.seeds[:1] if spec.architecture == "tree" else config.training.seeds


def _notes(config: JobConfig, log: InteractionLog, rows: IntArray) -> list[str]:
    """What a reader of the quality table has to know of the test samples at these log rows."""
    observed = rows[np.logical_not(log.sampled[rows])]
    share = repeats(log)[observed].mean() if len(observed) else 0.0
    notes = [f"{share:.1%} of the test interactions repeat an item of their user"]
    if config.data.labels.draws_by_popularity:
        notes.append("negatives are drawn by popularity, so that popularity says nothing here; chance is the baseline")
    notes.append(
        f"AUC and LogLoss are compared with {TREE}, and those with the baseline; GAUC is of users with "
        f"{GAUC_SAMPLES} or more test samples and both labels"
    )
    return notes


def _table(
    config: JobConfig,
    fitted: dict[tuple[str, int], Fitted],
    scores: dict[tuple[str, int], FloatArray],
    seconds: dict[str, float],
    baseline: Baseline,
    label: FloatArray,
    user: Array,
) -> list[dict[str, Any]]:
    """One row per model; several seeds are averaged. Differences of AUC and LogLoss are against the trees, those of the
    trees against the baseline; that of AUC by knowledge is against the served architecture without."""
    resamples, chosen = Resamples(label, user), specs(config)
    plain = next((spec.label for spec in chosen if spec.producers == () and spec.label != TREE), None)
    areas, losses = {}, {}
    for spec in chosen:
        of_seeds = {seed: scores[spec.label, seed] for seed in seeds_of(spec, config)}
        areas[spec.label] = resamples.mean_auc(of_seeds)
        losses[spec.label] = np.mean([resamples.mean(log_losses(label, each)) for each in of_seeds.values()], axis=0)
    areas[baseline.name] = resamples.auc(baseline.scores)
    losses[baseline.name] = resamples.mean(log_losses(label, baseline.scores))
    table = []
    for spec in chosen:
        seeds = seeds_of(spec, config)
        each = [asdict(quality(label, scores[spec.label, seed], user)) for seed in seeds]
        measures = {
            "validation_auc": float(np.mean([fitted[spec.label, seed].auc for seed in seeds])),
            "validation_logloss": float(np.mean([fitted[spec.label, seed].logloss for seed in seeds])),
            **{name: float(np.mean([measures[name] for measures in each])) for name in each[0]},
            "seconds": seconds[spec.label],
        }
        row: dict[str, Any] = {"model": spec.label, **without_nan(measures)}
        against = baseline.name if spec.label == TREE else TREE
        for name, of_models in {"difference": areas, "logloss_difference": losses}.items():
            gain = difference(of_models[spec.label], of_models[against])
            row |= {name: [gain.middle, gain.low, gain.high]} if gain.is_defined else {}
        if plain is not None and spec.label not in (plain, TREE):
            gain = difference(areas[spec.label], areas[plain])
            row |= {"knowledge_difference": [gain.middle, gain.low, gain.high]} if gain.is_defined else {}
        table.append(row)
    of_baseline = asdict(quality(label, baseline.scores, user))
    table.append({"model": baseline.name, **without_nan(of_baseline)})
    return table
