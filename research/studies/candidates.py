"""Every candidate of ``served = "auto"``, trained in full and judged on the test samples: whether the default that was
chosen without them is worse than the trees, and what was not chosen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import Array, FloatArray
from models.contract.schema import fingerprint
from offline.config import JobConfig, Served
from offline.data.catalogue import Catalogue
from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import Quality, in_words, log_losses, quality
from offline.training.artifact import export_artifact
from offline.training.bootstrap import Resamples, difference
from offline.training.candidates import NAMES, Choice, ModelSpec, candidate_config
from offline.training.cost import SCORED, scoring_milliseconds
from offline.training.fit import fit, predict
from offline.training.samples import SampleEncoder, split_samples
from research.tables import difference_cell, table
from research.test_set_ledger import Ledger


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate: test scores of each seed, the median time of a request, and mean seconds of a training."""

    architecture: Served
    scores: dict[int, FloatArray]
    milliseconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class CandidateStudy:
    """The candidates of a data set, with ``label`` and ``user`` [n] of its test samples."""

    name: str
    trained: list[Trained]
    label: FloatArray
    user: Array
    choice: Choice | None

    def markdown(self) -> str:
        """A row per candidate, the default first. Differences are against the trees, over resampled users."""
        resamples = Resamples(self.label, self.user)
        area = {candidate.architecture: resamples.mean_auc(candidate.scores) for candidate in self.trained}
        loss = {
            candidate.architecture: np.mean(
                [resamples.mean(log_losses(self.label, score)) for score in candidate.scores.values()], 0
            )
            for candidate in self.trained
        }
        default = None if self.choice is None else self.choice.architecture
        rows = []
        for candidate in sorted(self.trained, key=lambda candidate: candidate.architecture != default):
            each = [quality(self.label, score, self.user) for score in candidate.scores.values()]
            name = NAMES[candidate.architecture] + (" (default)" if candidate.architecture == default else "")
            cells = [name, _mean(each, "auc"), _mean(each, "logloss")]
            for measure in (area, loss):
                of_trees = candidate.architecture == "tree" or "tree" not in measure
                delta = None if of_trees else difference(measure[candidate.architecture], measure["tree"])
                cells.append(difference_cell(delta))
            cells += [
                _mean(each, "ece"),
                f"{candidate.seconds:.0f}",
                f"{candidate.milliseconds:.2f}",
                str(len(candidate.scores)),
            ]
            rows.append(cells)
        heads = ["model", "AUC", "LogLoss", "AUC against trees [95 %]", "LogLoss against trees [95 %]", "ECE"]
        heads += ["training, s", f"ms of {SCORED}", "seeds"]
        lines = [table(heads, rows), ""]
        if self.choice is not None:
            times = self.choice.seconds / next(each.seconds for each in self.trained if each.architecture == default)
            lines.append(
                f"{self.choice.sentence[0].upper()}{self.choice.sentence[1:]}. Choosing, on {self.choice.samples:,} "
                f"training samples, took {self.choice.seconds:.0f} s: {times:.1f} times the training of the default."
            )
        return "\n".join(lines)


def train_candidates(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    seeds: int,
    folder: Path,
    ledger: Ledger,
    choice: Choice | None,
) -> CandidateStudy:
    """Train each candidate with so many seeds, the trees with one; what is in ``folder`` already is not trained
    again."""
    splits = split_samples(config.samples, log)
    test, trained = splits.rows["test"], []
    label = (log.value[test] > config.feature_schema.liked_above).astype(np.float32)
    for architecture in config.training.choice.candidates:
        candidate = candidate_config(config, architecture)
        schema = knowledge.schema(candidate.feature_schema)
        circumstances = _circumstances(candidate, schema.fingerprint, log, knowledge)
        encoder: SampleEncoder | None = None
        scores, seconds, milliseconds = {}, [], 0.0
        for seed in range(1, 1 + (1 if architecture == "tree" else seeds)):
            path = folder / f"{architecture}-{circumstances}-seed{seed}.npz"
            if not path.is_file():
                encoder = encoder or SampleEncoder(schema, catalogue, log, knowledge, splits.trained_rows)
                began, spec = time.perf_counter(), ModelSpec(f"{NAMES[architecture]}, seed {seed}", architecture)
                fitted = fit(spec, candidate.training, encoder, splits, seed)
                took = time.perf_counter() - began
                content, _ = export_artifact(config.name, spec, fitted.model, encoder, knowledge, splits, {})
                cost = scoring_milliseconds(content, encoder, splits.rows["validation"])
                of_test = predict(fitted.model, encoder, test)
                write_arrays(path, scores=of_test, seconds=np.array(took), milliseconds=np.array(cost))
            arrays = read_arrays(path)
            scores[seed] = arrays["scores"]
            seconds.append(float(arrays["seconds"]))
            milliseconds = float(arrays["milliseconds"])
        digests = {str(seed): fingerprint(score.tolist()) for seed, score in scores.items()}
        ledger.record(config.name, NAMES[architecture], circumstances, digests)
        trained.append(Trained(architecture, scores, milliseconds, float(np.mean(seconds))))
    return CandidateStudy(config.name, trained, label, log.user[test], choice)


def _circumstances(config: JobConfig, schema: str, log: InteractionLog, knowledge: Knowledge) -> str:
    document: dict[str, Any] = {
        "training": config.training.model_dump(mode="json", exclude={"seeds", "compare", "retrain_growth", "choice"}),
        "samples": config.samples.model_dump(mode="json"),
        "schema": schema,
        "log": log.digest(len(log)),
        "spaces": sorted(space.fingerprint for space in knowledge.spaces),
    }
    return fingerprint(document)


def _mean(each: list[Quality], measure: str) -> str:
    return in_words(float(np.mean([getattr(of_seed, measure) for of_seed in each])))
