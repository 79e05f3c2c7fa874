"""Every candidate of ``served = "auto"``, trained in full and judged on the test samples: whether the default that was
chosen without them is worse than the trees, and what was not chosen."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import Array, FloatArray
from models.contract.schema import fingerprint
from offline.config import JobConfig, Served
from offline.data.catalogue import Catalogue, DataError
from offline.data.files import read_arrays, read_json, write_arrays, write_json
from offline.data.log import InteractionLog
from offline.jobs.steps import Job
from offline.knowledge.vectors import Knowledge
from offline.metrics import Quality, in_words, log_losses, quality
from offline.training.artifact import export_artifact
from offline.training.bootstrap import Resamples, difference
from offline.training.candidates import NAMES, Choice, ModelSpec, as_trained, candidate_config, specs
from offline.training.choose import choose
from offline.training.cost import SCORED, scoring_milliseconds
from offline.training.fit import fit, predict
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, split_samples
from research.tables import difference_cell, table
from research.test_set_ledger import Ledger, score_digest

_CODE = 1
"""Raise it when code changes what a training gives: candidates are then trained again."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate: test scores of each seed, the median time of a request, and mean seconds of a training, all of them
    processor time. ``scores`` are empty for a candidate that is too slow to be served, which is not trained."""

    architecture: Served
    scores: dict[int, FloatArray]
    milliseconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class OtherModel:
    """Test scores of the model of another configuration, on the same samples; ``name`` is its configuration's."""

    name: str
    score: FloatArray


@dataclass(frozen=True, slots=True)
class CandidateStudy:
    """The candidates of a data set, with ``label`` and ``user`` [n] of its test samples; ``other``: what the default is
    compared with besides."""

    name: str
    candidates: list[Trained]
    label: FloatArray
    user: Array
    choice: Choice
    other: OtherModel | None = None

    def markdown(self) -> str:
        """A row per candidate, the default first. Differences are against the trees, over resampled users."""
        resamples = Resamples(self.label, self.user)
        trained = [candidate for candidate in self.candidates if candidate.scores]
        area = {candidate.architecture: resamples.mean_auc(candidate.scores) for candidate in trained}
        loss = {candidate.architecture: self._losses(resamples, candidate.scores.values()) for candidate in trained}
        default = self.choice.architecture
        rows = []
        for candidate in sorted(self.candidates, key=lambda candidate: candidate.architecture != default):
            name = NAMES[candidate.architecture] + (" (default)" if candidate.architecture == default else "")
            milliseconds = f"{candidate.milliseconds:.2f}"
            if not candidate.scores:
                rows.append([name, "too slow", *[""] * 5, milliseconds])
                continue
            each = [quality(self.label, score, self.user) for score in candidate.scores.values()]
            cells = [name, _mean(each, "auc"), _mean(each, "logloss"), _mean(each, "ece")]
            for measure in (area, loss):
                of_trees = candidate.architecture == "tree" or "tree" not in measure
                delta = None if of_trees else difference(measure[candidate.architecture], measure["tree"])
                cells.append(difference_cell(delta))
            rows.append([*cells, f"{candidate.seconds:.0f}", milliseconds, str(len(candidate.scores))])
        heads = ["test samples", "AUC", "LogLoss", "ECE", "AUC against trees [95 %]", "LogLoss against trees [95 %]"]
        heads += ["training, s", f"ms of {SCORED}", "seeds"]
        lines = [table(heads, rows), ""]
        seconds = next(candidate.seconds for candidate in trained if candidate.architecture == default)
        lines.append(
            f"{self.choice.sentence[0].upper()}{self.choice.sentence[1:]}. Choosing, on {self.choice.samples:,} "
            f"training samples, took {self.choice.seconds:.0f} s: {self.choice.seconds / seconds:.1f} times the "
            f"training of the default."
        )
        if self.other is not None:
            other = quality(self.label, self.other.score, self.user)
            auc = difference(area[default], resamples.auc(self.other.score))
            logloss = difference(loss[default], self._losses(resamples, [self.other.score]))
            lines += [
                "",
                f"The model of the configuration {self.other.name}, one seed, has AUC {in_words(other.auc)} and "
                f"LogLoss {in_words(other.logloss)} on these samples; the default differs by {auc} and {logloss}.",
            ]
        return "\n".join(lines)

    def _losses(self, resamples: Resamples, scores: Iterable[FloatArray]) -> Array:
        """LogLoss [1 + resamples], the mean over seeds."""
        return np.asarray(np.mean([resamples.mean(log_losses(self.label, score)) for score in scores], 0))


def other_model(job: Job, label: FloatArray) -> OtherModel:
    """The served model of another configuration, with the test scores of its last training. DataError if there is none,
    or its samples, whose labels are compared, are others than those of ``label`` [n]."""
    trained = as_trained(job.config, TrainingReport.load(job.models / "report.json").architecture)
    arrays = read_arrays(job.models / "test_predictions.npz")
    if not np.array_equal(arrays["label"], label):
        raise DataError(f"the test samples of {job.config.name} are others: nothing can be compared")
    return OtherModel(job.config.name, arrays[f"{specs(trained)[0].label}/seed{trained.training.seeds[0]}"])


def train_candidates(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    seeds: int,
    folder: Path,
    ledger: Ledger,
) -> CandidateStudy:
    """Choose, then train each candidate with so many seeds, the trees with one, and none that is too slow; what is in
    ``folder`` already is not done again."""
    choice = _choice(folder / "choice.json", config, catalogue, log, knowledge)
    splits = split_samples(config.samples, log)
    test, candidates = splits.rows["test"], []
    label = (log.value[test] > config.feature_schema.liked_above).astype(np.float32)
    for architecture in config.training.choice.candidates:
        if architecture in choice.too_slow:
            candidates.append(Trained(architecture, {}, choice.too_slow[architecture], 0.0))
            continue
        candidate = candidate_config(config, architecture)
        schema = knowledge.schema(candidate.feature_schema)
        circumstances = _circumstances(candidate, schema.fingerprint, log, knowledge)
        encoder: SampleEncoder | None = None
        scores, seconds, milliseconds = {}, [], 0.0
        for seed in range(1, 1 + (1 if architecture == "tree" else seeds)):
            path = folder / f"{architecture}-{circumstances}-seed{seed}.npz"
            if not path.is_file():
                encoder = encoder or SampleEncoder(schema, catalogue, log, knowledge, splits.trained_rows)
                began, spec = time.process_time(), ModelSpec(f"{NAMES[architecture]}, seed {seed}", architecture)
                fitted = fit(spec, candidate.training, encoder, splits, seed)
                took = time.process_time() - began
                content, _ = export_artifact(config.name, spec, fitted.model, encoder, knowledge, splits, {})
                cost = scoring_milliseconds(content, encoder, splits.rows["validation"])
                of_test = predict(fitted.model, encoder, test)
                write_arrays(path, scores=of_test, seconds=np.array(took), milliseconds=np.array(cost))
            arrays = read_arrays(path)
            scores[seed] = arrays["scores"]
            seconds.append(float(arrays["seconds"]))
            milliseconds = float(arrays["milliseconds"])
        digests = {str(seed): score_digest(score) for seed, score in scores.items()}
        ledger.record(config.name, NAMES[architecture], circumstances, digests)
        candidates.append(Trained(architecture, scores, milliseconds, float(np.mean(seconds))))
    return CandidateStudy(config.name, candidates, label, log.user[test], choice)


def _choice(path: Path, config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge) -> Choice:
    choice = Choice.of(read_json(path), config) if path.is_file() else None
    if choice is None:
        choice = choose(config, catalogue, log, knowledge)
        write_json(path, choice.document())
    return choice


def _circumstances(config: JobConfig, schema: str, log: InteractionLog, knowledge: Knowledge) -> str:
    document: dict[str, Any] = {
        "code": _CODE,
        "training": config.training.model_dump(mode="json", exclude={"seeds", "compare", "retrain_growth", "choice"}),
        "samples": config.samples.model_dump(mode="json"),
        "schema": schema,
        "log": log.digest(len(log)),
        "spaces": sorted(space.fingerprint for space in knowledge.spaces),
    }
    return fingerprint(document)


def _mean(each: list[Quality], measure: str) -> str:
    return in_words(float(np.mean([getattr(of_seed, measure) for of_seed in each])))
