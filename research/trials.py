"""Trials: the served architecture with some choice of knowledge, trained with one seed, kept on disk by circumstances.

Tables of several variants and seeds take hours; a run that was stopped finds its finished trials again. A trial trains
on one thread, so that its numbers do not depend on the machine's cores. Several run at once in processes of their own,
which is also faster: the model is too small to share one step (research/LOG.md, 2026-11-20).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.contract.arrays import Array, FloatArray, IntArray
from models.contract.schema import FeatureSchema, fingerprint
from models.ctr.calibration import Calibrated
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.training.candidates import ModelSpec, architecture_of
from offline.training.fit import Fitted, fit, new_model, predict
from offline.training.samples import SampleEncoder, split_samples


@dataclass(frozen=True, slots=True)
class Trial:
    """``test`` [n] are probabilities of the test samples; ``validation_auc`` is the kept epoch's."""

    test: Array
    validation_auc: float
    epochs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """A trial to run: the served architecture, trained on a schema's knowledge. ``label`` names it while it runs."""

    schema: FeatureSchema
    knowledge: Knowledge
    label: str
    seed: int


class TrialRunner:
    """Runs trials on the samples of one data set; results lie in ``folder``."""

    def __init__(self, config: JobConfig, catalogue: Catalogue, log: InteractionLog, folder: Path) -> None:
        self.config = config
        self._catalogue = catalogue
        self.log = log
        self._folder = folder
        self.splits = split_samples(config.samples, log)

    def test_samples(self) -> tuple[FloatArray, IntArray]:
        """Label and user [n] of the test samples."""
        rows = self.splits.rows["test"]
        liked = self.log.value[rows] > self.config.feature_schema.liked_above
        return liked.astype(np.float32), self.log.user[rows].astype(np.int64)

    def trials(self, specs: Sequence[TrialSpec], workers: int = 1) -> list[Trial]:
        """Each wanted trial, trained only if it was not before under the same circumstances.

        With several ``workers`` as many train at once, each in a process of its own.
        """
        paths = [self._path(spec) for spec in specs]
        missing = {path: spec for path, spec in zip(paths, specs, strict=True) if not path.is_file()}
        if workers > 1 and len(missing) > 1:
            self._train_in_processes(missing, min(workers, len(missing)))
        else:
            for path, spec in missing.items():
                self.train(path, spec)
        return [_read(path) for path in paths]

    def encoder(self, spec: TrialSpec) -> SampleEncoder:
        """The encoder of a trial's samples."""
        return SampleEncoder(spec.schema, self._catalogue, self.log, spec.knowledge, self.splits.trained_rows)

    def fitted(self, spec: TrialSpec, encoder: SampleEncoder) -> tuple[Fitted, float]:
        """The model of a trial, trained only if it was not before under the same circumstances, and the seconds of
        processor time that this took. Looks at no test sample."""
        path = self._folder / f"{self.circumstances(spec)}-seed{spec.seed}-weights.npz"
        model_spec = self._model_spec(spec)
        if not path.is_file():
            began = time.process_time()
            with one_thread():
                fitted = fit(model_spec, self.config.training, encoder, self.splits, spec.seed)
            save_fitted(path, fitted, time.process_time() - began)
        return load_fitted(path, new_model(model_spec, self.config.training, encoder))

    def _model_spec(self, spec: TrialSpec) -> ModelSpec:
        return ModelSpec(f"{spec.label}, seed {spec.seed}", architecture_of(self.config.training))

    def train(self, path: Path, spec: TrialSpec, progress: bool = True) -> None:
        """Train and keep it at ``path``."""
        encoder, model_spec = self.encoder(spec), self._model_spec(spec)
        with one_thread():
            fitted = fit(model_spec, self.config.training, encoder, self.splits, spec.seed, progress=progress)
            test = predict(fitted.model, encoder, self.splits.rows["test"])
        write_arrays(path, test=test, epochs=np.array(fitted.validation_auc), epoch=np.array(fitted.epoch))

    def _train_in_processes(self, missing: dict[Path, TrialSpec], workers: int) -> None:
        # spawned, because a fork of a process whose torch has threads can hang
        with (
            ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("spawn"),
                _enter,
                (self.config, self._catalogue, self.log, self._folder),
            ) as pool,
            tqdm(total=len(missing), desc="  trials", unit="trial") as bar,
        ):
            try:
                for _ in pool.map(_train, missing, missing.values()):
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def circumstances(self, spec: TrialSpec) -> str:
        """A fingerprint of all that a trial comes from but its seed."""
        training = self.config.training.model_dump(mode="json", exclude={"seeds", "compare", "retrain_growth"})
        return fingerprint(self.data(spec.schema, spec.knowledge) | {"training": training})

    def data(self, schema: FeatureSchema, knowledge: Knowledge) -> dict[str, Any]:
        """The material of this schema's samples, as a document for fingerprints."""
        keys = {spec.key for spec in schema.knowledge}
        return {
            "schema": schema.fingerprint,
            "spaces": [space.fingerprint for space in knowledge.spaces if space.key in keys],
            "data": _digest(*self._columns(schema), *_arrays(knowledge, keys)),
            "samples": self.config.samples.model_dump(mode="json"),
            "rows": _digest(*self.splits.rows.values()),
        }

    def _path(self, spec: TrialSpec) -> Path:
        return self._folder / f"{self.circumstances(spec)}-seed{spec.seed}.npz"

    def _columns(self, schema: FeatureSchema) -> list[Array]:
        """The material of samples beside knowledge."""
        log, users, items = self.log, self._catalogue.users, self._catalogue.items
        of_users = [schema.encode_user_fields(users.get(user, {})) for user in log.user_ids]
        of_items = [schema.encode_item_fields(items.get(item, {})) for item in log.item_ids]
        return [log.user, log.item, log.value, log.sampled, np.array(of_users), np.array(of_items)]


def _read(path: Path) -> Trial:
    arrays = read_arrays(path)
    epochs = tuple(arrays["epochs"].tolist())
    return Trial(arrays["test"], epochs[int(arrays["epoch"])], epochs)


def save_fitted(path: Path, fitted: Fitted, seconds: float) -> None:
    """Keep a trained model, and the seconds that its training took, for ``load_fitted``."""
    state = {f"weight {name}": weight.numpy() for name, weight in fitted.model.state_dict().items()}
    epochs = {name: np.array(getattr(fitted, name)) for name in ("epoch", "validation_auc", "validation_logloss")}
    write_arrays(path, seconds=np.array(seconds), **epochs, **state)


def load_fitted(path: Path, model: Calibrated) -> tuple[Fitted, float]:
    """Inverse of ``save_fitted``, into an untrained model."""
    arrays = read_arrays(path)
    weights = {name.removeprefix("weight "): array for name, array in arrays.items() if name.startswith("weight ")}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    aucs, losses = (tuple(arrays[name].tolist()) for name in ("validation_auc", "validation_logloss"))
    fitted = Fitted(model.eval(), int(arrays["epoch"]), aucs, losses)
    return fitted, float(arrays["seconds"])


_runner: TrialRunner
"""Of a worker process, which has one for all its trials."""


def _enter(config: JobConfig, catalogue: Catalogue, log: InteractionLog, folder: Path) -> None:
    global _runner
    _runner = TrialRunner(config, catalogue, log, folder)


def _train(path: Path, spec: TrialSpec) -> None:
    _runner.train(path, spec, progress=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _arrays(knowledge: Knowledge, keys: set[str]) -> list[Array]:
    """The vectors themselves and when they hold: texts that came later change them within a space."""
    users = [produced for produced in knowledge.users.values() if produced.space.key in keys]
    items = [produced for produced in knowledge.items.values() if produced.space.key in keys]
    of_users = [array for produced in users for array in (produced.vectors, produced.start, produced.since)]
    return of_users + [array for produced in items for array in (produced.vectors, produced.from_row)]


def _digest(*arrays: Array) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
