"""Running trainings: what is not on disk yet is trained, several at once, and the answers of all are read back.

A run that was stopped goes on where it was: a training is on disk when its last answer is. Weights of our models stay
beside the answers, so that a change of what is exported costs no training.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from tqdm import tqdm

from models.contract.arrays import IntArray
from offline.config import JobConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.training.samples import Split, SplitRows, split_samples
from research.quality.ours import train_ours
from research.quality.peers import train_peer
from research.quality.peers.samples import peer_samples
from research.quality.predictions import Trained, load_trained, save_trained
from research.quality.trainings import PEER_SETTINGS, Circumstances, Training, circumstances, peer_schema
from research.trials import TrialRunner, one_thread

_ORDER: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Bench:
    """A data set with its configuration and knowledge, and the folder of answers."""

    config: JobConfig
    catalogue: Catalogue
    log: InteractionLog
    knowledge: Knowledge
    folder: Path

    def holds(self, key: str) -> bool:
        """Whether these answers are on disk."""
        return (self.folder / f"{key}.json").is_file()

    def splits(self) -> SplitRows:
        """DataError if the samples are not as many as the protocol is known to give."""
        splits, expected = split_samples(self.config.samples, self.log), self.config.benchmark.samples
        counts = tuple(len(splits.rows[split]) for split in _ORDER)
        if expected is not None and counts != expected:
            raise DataError(f"the protocol gives {expected} samples, this log {counts}")
        return splits

    def circumstances(self, trainings: Sequence[Training]) -> list[Circumstances]:
        """Circumstances of each training."""
        runner = TrialRunner(self.config, self.catalogue, self.log, self.folder)
        known: dict[Training, Circumstances] = {}
        for training in trainings:
            same = replace(training, seed=0)
            if same not in known:
                known[same] = circumstances(self.config, runner, self.knowledge, training)
        return [known[replace(training, seed=0)] for training in trainings]


def run(bench: Bench, trainings: Sequence[Training], workers: int = 1) -> list[Trained]:
    """Answers of all ``trainings``; what is missing is trained, ``workers`` at once."""
    bench.splits()
    under = list(zip(trainings, bench.circumstances(trainings), strict=True))
    missing = [(training, given) for training, given in under if not all(map(bench.holds, training.keys(given)))]
    with tqdm(total=len(trainings), initial=len(trainings) - len(missing), desc="  trainings", unit="training") as bar:
        if workers > 1 and len(missing) > 1:
            _in_processes(bench, missing, min(workers, len(missing)), bar)
        else:
            for training, given in missing:
                bar.set_postfix_str(_train(bench, training, given))
                bar.update()
    return [load_trained(bench.folder, key) for training, given in under for key in training.keys(given)]


def _in_processes(
    bench: Bench, missing: Sequence[tuple[Training, Circumstances]], workers: int, bar: tqdm[NoReturn]
) -> None:
    # spawned, because a fork of a process whose torch has threads can hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _enter, (bench,)) as pool:
        try:
            for label in pool.map(_train_here, *zip(*missing, strict=True)):
                bar.set_postfix_str(label)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_bench: Bench
"""Of a worker process, which has one for all its trainings."""


def _enter(bench: Bench) -> None:
    global _bench
    _bench = bench


def _train_here(training: Training, given: Circumstances) -> str:
    return _train(_bench, training, given)


def _train(bench: Bench, training: Training, given: Circumstances) -> str:
    """Train under the ``given`` circumstances and keep the answers; what was trained."""
    with one_thread():
        answers = _of_peer(bench, training, given) if training.peer else _of_ours(bench, training, given)
    for key, trained in zip(training.keys(given), answers, strict=True):
        save_trained(bench.folder, key, trained)
    return training.label


def _of_ours(bench: Bench, training: Training, given: Circumstances) -> list[Trained]:
    weights = bench.folder / "weights" / f"{training.weights_key(given)}.npz"
    return train_ours(bench.config, bench.catalogue, bench.log, bench.knowledge, training, weights, given.answers)


def _of_peer(bench: Bench, training: Training, given: Circumstances) -> list[Trained]:
    config = bench.config.model_copy(update={"feature_schema": peer_schema(bench.config, training.history)})
    samples = peer_samples(config, bench.catalogue, bench.log)
    settings = PEER_SETTINGS[training.peer]
    (key,) = training.keys(given)
    result = train_peer(training.peer, samples, settings, training.seed, bench.folder / "peers" / key, progress=False)
    validation, test = (samples.split == part for part in (1, 2))
    chosen: IntArray = np.concatenate([np.flatnonzero(validation), np.flatnonzero(test)])
    return [
        Trained(
            model=training.model,
            family=training.family,
            seed=training.seed,
            statistics="frozen",
            share=training.share,
            epochs=result.epochs,
            ms_per_500=result.ms_per_500,
            parameters=result.parameters,
            seconds=result.seconds,
            rows=samples.rows[chosen],
            split=np.repeat(["validation", "test"], [int(validation.sum()), int(test.sum())]),
            label=samples.label[chosen],
            score=np.concatenate([result.validation, result.test]),
            circumstances=given.answers,
        )
    ]
