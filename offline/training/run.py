"""All models of a configuration on the same samples: the quality table, and the artifact of the served one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.ctr.build import Architecture
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.training.artifact import export_artifact, weights_version, write_artifact
from offline.training.bootstrap import Resamples, difference
from offline.training.fit import Fitted, ModelSpec, fit, new_model, predict
from offline.training.metrics import quality
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, split_samples

_COMPARED: tuple[Architecture, ...] = ("din", "dcnv2", "deepfm")


def specs(config: JobConfig) -> list[ModelSpec]:
    """The served model first, then (``compare``) its rivals."""
    names: dict[Architecture, str] = {
        "din": "DIN (target attention)",
        "dcnv2": "DCNv2",
        "deepfm": "DeepFM",
        "lifelong": "whole histories",
    }
    served = config.training.served
    chosen = [ModelSpec(f"{names[served]} + knowledge", served)]
    if config.training.compare:
        chosen.append(ModelSpec(f"{names[served]}, no knowledge", served, ()))
        chosen += [ModelSpec(f"{names[key]} + knowledge", key) for key in _COMPARED if key != served]
    return chosen


def encoders(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    trained_rows: int,
    chosen: Sequence[ModelSpec],
) -> dict[tuple[str, ...] | None, SampleEncoder]:
    """One encoder per choice of producers among the models."""
    schema = knowledge.schema(config.feature_schema)
    return {
        producers: SampleEncoder(
            schema if producers is None else schema.with_knowledge(producers), catalogue, log, knowledge, trained_rows
        )
        for producers in {spec.producers for spec in chosen}
    }


def train(
    config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, folder: Path
) -> TrainingReport:
    """Train, judge and export. Writes the artifact, the served model's weights, test predictions and report.json."""
    splits = split_samples(config.samples, log)
    chosen = specs(config)
    encoder_of = encoders(config, catalogue, log, knowledge, splits.trained_rows, chosen)
    encoder = encoder_of[chosen[0].producers]
    user = log.user.astype(np.int64)
    rows = splits.rows["test"]
    label = encoder.labels[rows]
    fitted: dict[tuple[str, int], Fitted] = {}
    scores: dict[tuple[str, int], npt.NDArray[np.float32]] = {}
    for spec in chosen:
        for seed in config.training.seeds:
            one = fit(spec, config.training, encoder_of[spec.producers], splits, user, seed)
            fitted[spec.label, seed] = one
            scores[spec.label, seed] = predict(one.model, encoder_of[spec.producers], rows)
    popularity = _popularity(encoder, log, splits.trained_rows)
    table = _table(config, fitted, scores, label, user[rows], popularity[rows])

    served = specs(config)[0]
    best = max(config.training.seeds, key=lambda seed: max(fitted[served.label, seed].validation_auc))
    one = fitted[served.label, best]
    metrics = {
        "validation_auc": max(one.validation_auc),
        "test_auc": quality(label, scores[served.label, best], user[rows]).auc,
    }
    content, worst = export_artifact(config.name, served, one.model, encoder, knowledge, splits, metrics)
    artifact = write_artifact(config.name, content, folder)
    torch.save(one.model.state_dict(), folder / f"{artifact.name}.pt")
    write_arrays(
        folder / "test_predictions.npz",
        rows=rows,
        label=label,
        popularity=popularity[rows],
        **{f"{key[0]}/seed{key[1]}": score for key, score in scores.items()},
    )
    report = TrainingReport(
        log_rows=len(log),
        trained_rows=splits.trained_rows,
        trained_until_ms=int(log.time_ms[splits.trained_rows - 1]),
        samples={split: len(of_split) for split, of_split in splits.rows.items()},
        artifact=artifact.name,
        sha256=artifact.sha256,
        model_version=weights_version(one.model),
        parity=worst,
        metrics=metrics,
        table=table,
        parts=artifact.parts,
    )
    report.save(folder / "report.json")
    return report


def load_served(config: JobConfig, report: TrainingReport, encoder: SampleEncoder, folder: Path) -> torch.nn.Module:
    """The served model as torch holds it, to compare the service's answers with."""
    model = new_model(specs(config)[0], config.training, encoder)
    model.load_state_dict(torch.load(folder / f"{report.artifact}.pt", weights_only=True))
    return model.eval()


def _popularity(encoder: SampleEncoder, log: InteractionLog, trained_rows: int) -> npt.NDArray[np.float32]:
    """The popularity baseline: an item's smoothed share of likes in the training period, for every log row."""
    liked_rate = encoder.table.numeric[:, 2]
    return ((liked_rate[log.item.astype(np.int64) + 1] + 1.0) / 2.0).astype(np.float32)


def _table(
    config: JobConfig,
    fitted: dict[tuple[str, int], Fitted],
    scores: dict[tuple[str, int], npt.NDArray[np.float32]],
    label: npt.NDArray[np.float32],
    user: npt.NDArray[np.int64],
    popularity: npt.NDArray[np.float32],
) -> list[dict[str, Any]]:
    """One row per model; several seeds are averaged. Differences are against the served architecture without knowledge,
    or against popularity where that was not trained."""
    seeds = config.training.seeds
    resamples = Resamples(label, user)
    plain = next((spec.label for spec in specs(config) if spec.producers == ()), None)
    baseline = resamples.mean_auc({seed: scores[plain, seed] if plain else popularity for seed in seeds})
    table = []
    for spec in specs(config):
        each = [quality(label, scores[spec.label, seed], user) for seed in seeds]
        row: dict[str, Any] = {
            "model": spec.label,
            "validation_auc": float(np.mean([max(fitted[spec.label, seed].validation_auc) for seed in seeds])),
            "auc": float(np.mean([one.auc for one in each])),
            "logloss": float(np.mean([one.logloss for one in each])),
            "gauc": float(np.mean([one.gauc for one in each])),
        }
        if spec.label != plain:
            found = difference(resamples.mean_auc({seed: scores[spec.label, seed] for seed in seeds}), baseline)
            row["difference"] = (found.middle, found.low, found.high)
        table.append(row)
    table.append({"model": "popularity (share of likes)", **asdict(quality(label, popularity, user))})
    return table
