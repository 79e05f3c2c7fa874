"""Training and scoring our own models: by the artifact that would be served, fed by the encoder that serves it.

Test samples are scored one request at a time in ONNX Runtime, as the service does it. The validation split, which only
chooses epochs and settings, is scored by torch.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.artifact import ArtifactManifest
from models.onnx_runtime import onnx_runtime
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.training.artifact import as_request, export_artifact
from offline.training.candidates import ModelSpec, architecture_of
from offline.training.fit import fit, new_model, predict
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from research.quality.peers import CANDIDATES, REPEATS
from research.quality.predictions import Trained
from research.quality.trainings import Training
from research.trials import load_fitted, save_fitted


def train_ours(
    config: JobConfig,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    training: Training,
    weights: Path,
    circumstances: str,
) -> list[Trained]:
    """Answers of a model of ours, trained unless ``weights`` are there, with each of the training's statistics.

    ``circumstances`` are those of the answers.
    """
    splits = split_samples(config.samples, log)
    read = knowledge.of(training.producers)
    encoder = SampleEncoder(
        config.feature_schema.with_knowledge(training.producers), catalogue, log, read, splits.trained_rows
    )
    spec = ModelSpec(training.label, architecture_of(config.training))
    if not weights.is_file():
        started = time.process_time()
        new = fit(spec, config.training, encoder, _part(splits, training), training.seed, progress=False)
        save_fitted(weights, new, time.process_time() - started)
    fitted, seconds = load_fitted(weights, new_model(spec, config.training, encoder))
    artifact, _ = export_artifact(config.name, spec, fitted.model, encoder, read, splits, {})
    served = _Served(artifact)
    parts = {"validation": splits.rows["validation"], "test": splits.rows["test"]}
    rows = np.concatenate(list(parts.values()))
    answers = []
    for statistics in training.statistics:
        if statistics == "frozen":
            scores = [predict(fitted.model, encoder, parts["validation"]), served.scores(encoder, parts["test"])]
        else:  # never served so: only the model is the same
            live = encoder.live()
            scores = [predict(fitted.model, live, samples) for samples in parts.values()]
        answers.append(
            Trained(
                model=training.model,
                family=training.family,
                seed=training.seed,
                statistics=statistics,
                share=training.share,
                epochs=fitted.validation_auc,
                ms_per_500=served.milliseconds(encoder, parts["test"]) if statistics == "frozen" else (),
                parameters=sum(weight.numel() for weight in fitted.model.parameters()),
                seconds=seconds,
                rows=rows,
                split=np.repeat(list(parts), [len(samples) for samples in parts.values()]),
                label=encoder.labels[rows],
                score=np.concatenate(scores),
                circumstances=circumstances,
            )
        )
    return answers


def _part(splits: SplitRows, training: Training) -> SplitRows:
    """With a random share of the training samples. Histories and statistics stay whole: fewer labels, not less past."""
    train = splits.rows["train"]
    if training.share == 1.0:
        return splits
    drawn = np.random.default_rng(training.seed).choice(train, round(training.share * len(train)), replace=False)
    return replace(splits, rows={**splits.rows, "train": np.sort(drawn)})


class _Served:
    """An artifact in ONNX Runtime on one thread."""

    def __init__(self, artifact: bytes) -> None:
        ort = onnx_runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # as the service does
        self._session = ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._inputs = ArtifactManifest.from_metadata(metadata).inputs

    def scores(self, encoder: SampleEncoder, rows: IntArray) -> FloatArray:
        """Probabilities [n] of the samples at these log rows, one request each."""
        probabilities = np.empty(len(rows), np.float32)
        for at in range(len(rows)):
            tensors = encoder.tensors(rows[at : at + 1])
            probabilities[at] = self._session.run(["score"], {name: tensors[name] for name in self._inputs})[0][0]
        return probabilities

    def milliseconds(self, encoder: SampleEncoder, rows: IntArray) -> tuple[float, ...]:
        """Of scoring 500 candidates of one user, for as many users as there are repeats; their features are there, and
        were scored once before."""
        generator = np.random.default_rng(0)
        feeds = []
        for row in generator.choice(rows, REPEATS, replace=len(rows) < REPEATS):
            candidates = generator.choice(rows, CANDIDATES, replace=len(rows) < CANDIDATES)
            request = as_request(encoder.tensors(np.array([row])), encoder.tensors(candidates))
            feeds.append({name: request[name] for name in self._inputs})
        for feed in feeds:
            self._session.run(["score"], feed)
        times = []
        for feed in feeds:
            started = time.perf_counter()
            self._session.run(["score"], feed)
            times.append((time.perf_counter() - started) * 1000.0)
        return tuple(times)
