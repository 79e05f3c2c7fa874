"""Trials: the served architecture with some choice of knowledge, trained with one seed, kept on disk by circumstances.

Tables of several variants and seeds take hours; a run that was stopped finds its finished trials again. A trial trains
on one thread, so that its numbers do not depend on the machine's cores. Several run at once in processes of their own,
which is also faster: the model is too small to share one step (research/LOG.md, 2026-11-20).
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.contract.arrays import Array
from models.contract.schema import FeatureSchema, fingerprint
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.files import read_arrays, write_arrays
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.training.fit import ModelSpec, fit, predict
from offline.training.samples import SampleEncoder, split_samples


@dataclass(frozen=True, slots=True)
class Trial:
    """``test`` [n] are probabilities of the test samples; ``validation_auc`` is the kept epoch's."""

    test: Array
    validation_auc: float
    epochs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to train: the served architecture on a schema's knowledge. ``label`` names it while it runs."""

    schema: FeatureSchema
    knowledge: Knowledge
    label: str
    seed: int


class Laboratory:
    """Runs trials on the samples of one data set; results lie in ``folder``."""

    def __init__(self, config: JobConfig, catalogue: Catalogue, log: InteractionLog, folder: Path) -> None:
        self._config = config
        self._catalogue = catalogue
        self._log = log
        self._folder = folder
        self.splits = split_samples(config.samples, log)

    def trials(self, wanted: Sequence[Wanted], workers: int = 1) -> list[Trial]:
        """Each wanted trial, trained only if it was not before under the same circumstances.

        With several ``workers`` as many train at once, each in a process of its own.
        """
        paths = [self._path(one) for one in wanted]
        missing = {path: one for path, one in zip(paths, wanted, strict=True) if not path.is_file()}
        if workers > 1 and len(missing) > 1:
            self._train_in_processes(missing, min(workers, len(missing)))
        else:
            for path, one in missing.items():
                self.train(path, one)
        return [_read(path) for path in paths]

    def train(self, path: Path, wanted: Wanted, progress: bool = True) -> None:
        """Train and keep it at ``path``."""
        encoder = SampleEncoder(wanted.schema, self._catalogue, self._log, wanted.knowledge, self.splits.trained_rows)
        spec = ModelSpec(f"{wanted.label}, seed {wanted.seed}", self._config.training.served)
        user = self._log.user.astype(np.int64)
        with one_thread():
            fitted = fit(spec, self._config.training, encoder, self.splits, user, wanted.seed, progress=progress)
            test = predict(fitted.model, encoder, self.splits.rows["test"])
        write_arrays(path, test=test, epochs=np.array(fitted.validation_auc))

    def _train_in_processes(self, missing: dict[Path, Wanted], workers: int) -> None:
        # spawned, because a fork of a process whose torch has threads can hang
        with (
            ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("spawn"),
                _enter,
                (self._config, self._catalogue, self._log, self._folder),
            ) as pool,
            tqdm(total=len(missing), desc="  trials", unit="trial") as bar,
        ):
            try:
                for _ in pool.map(_train, missing, missing.values()):
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def circumstances(self, wanted: Wanted) -> str:
        """A fingerprint of all that a trial comes from but its seed."""
        training = self._config.training.model_dump(mode="json", exclude={"seeds", "compare", "retrain_growth"})
        return fingerprint(self.data(wanted.schema, wanted.knowledge) | {"training": training})

    def data(self, schema: FeatureSchema, knowledge: Knowledge) -> dict[str, Any]:
        """What samples of this schema are made of, as a document for fingerprints."""
        keys = {spec.key for spec in schema.knowledge}
        return {
            "schema": schema.fingerprint,
            "spaces": [one.fingerprint for one in knowledge.spaces if one.key in keys],
            "data": _digest(*self._columns(schema), *_arrays(knowledge, keys)),
            "samples": self._config.samples.model_dump(mode="json"),
        }

    def _path(self, wanted: Wanted) -> Path:
        return self._folder / f"{self.circumstances(wanted)}-seed{wanted.seed}.npz"

    def _columns(self, schema: FeatureSchema) -> list[Array]:
        """What a sample is made of beside knowledge."""
        log, users, items = self._log, self._catalogue.users, self._catalogue.items
        of_users = [schema.encode_user_fields(users.get(user, {})) for user in log.user_ids]
        of_items = [schema.encode_item_fields(items.get(item, {})) for item in log.item_ids]
        return [log.user, log.item, log.value, log.sampled, np.array(of_users), np.array(of_items)]


def _read(path: Path) -> Trial:
    found = read_arrays(path)
    return Trial(found["test"], float(found["epochs"].max()), tuple(found["epochs"].tolist()))


_laboratory: Laboratory
"""Of a worker process, which has one for all its trials."""


def _enter(config: JobConfig, catalogue: Catalogue, log: InteractionLog, folder: Path) -> None:
    global _laboratory
    _laboratory = Laboratory(config, catalogue, log, folder)


def _train(path: Path, wanted: Wanted) -> None:
    _laboratory.train(path, wanted, progress=False)


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
    users = [one for one in knowledge.users.values() if one.space.key in keys]
    items = [one for one in knowledge.items.values() if one.space.key in keys]
    of_users = [array for one in users for array in (one.vectors, one.start, one.since)]
    return of_users + [array for one in items for array in (one.vectors, one.from_row)]


def _digest(*arrays: Array) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
