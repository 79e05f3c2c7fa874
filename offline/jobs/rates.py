"""How long a run's texts and prompts will take on this machine, measured with a few of them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.jobs.steps import Job
from offline.jobs.work import Work
from offline.knowledge.encoder import TextEncoder
from offline.knowledge.vectors import Knowledge
from offline.llm.budget import CostEstimate
from offline.llm.config import open_backend
from offline.llm.protocol import Backend, UnusableBackendError
from offline.training.candidates import NAMES
from offline.training.samples import SampleEncoder, split_samples

_TEXTS, _PROMPTS, _BATCHES = 64, 8, 10

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that texts and prompts will take; None where nothing tells. ``by_texts`` and ``by_prompts`` say what told
    them, or why nothing does."""

    texts: float | None = None
    by_texts: str = ""
    prompts: float | None = None
    by_prompts: str = ""

    def lines(self, work: Work) -> Iterator[str]:
        """What the work will take, for people."""
        yield _line("texts to encode", len(work.texts), self.texts, self.by_texts)
        yield _line("prompts to ask", len(work.prompts), self.prompts, self.by_prompts)


def measure(job: Job, work: Work) -> Durations:
    """How long ``work`` takes on this machine. Earlier runs tell it of a language model; one in this process that has
    not been asked yet is asked a few prompts, one on a server is not, because that is paid. EncoderError without the
    encoder's weights. Leaves no file behind, and no account of a run."""
    texts, by_texts = _texts(job, work.texts) if work.texts else (None, "")
    prompts, by_prompts = _prompts(job, work) if work.prompts else (None, "")
    return Durations(texts, by_texts, prompts, by_prompts)


def line_of_training(config: JobConfig, catalogue: Catalogue, log: InteractionLog) -> str:
    """How long training takes on this machine, at most: early stopping may end it before. For people."""
    from offline.training.fit import seconds_per_batch  # loads torch

    training, splits = config.training, split_samples(config.samples, log)
    epochs = f"training: {len(splits.rows['train']):,} samples, at most {training.epochs} epochs"
    if training.served == "auto":
        names = ", ".join(NAMES[candidate] for candidate in training.choice.candidates)
        tried_on = training.choice.samples_of(len(splits.rows["train"]))
        return f"{epochs}, of the best of {names}, which are compared on {tried_on:,} first"
    if training.served == "lifelong":
        return epochs
    if training.served == "tree":
        return f"training: {len(splits.rows['train']):,} samples, at most {training.tree.trees} trees"
    schema = config.feature_schema.with_knowledge(())
    encoder = SampleEncoder(schema, catalogue, log, Knowledge({}), splits.trained_rows)
    batches = -(-len(splits.rows["train"]) // training.batch_size)
    per_batch = seconds_per_batch(training.served, training, encoder, splits, _BATCHES)
    seconds = per_batch * batches * training.epochs * len(training.seeds)
    models = "; with compare = true several models are trained" if training.compare else ""
    return f"{epochs}, about {_minutes(seconds)} ({_BATCHES} batches were timed, without knowledge{models})"


def _texts(job: Job, texts: Sequence[str]) -> tuple[float, str]:
    sample = _spread(texts, _TEXTS)
    encoder = TextEncoder(job.config.knowledge.encoder, job.config.knowledge.encoder_tokens, job.config.arithmetic)
    encoder.encode(sample[:1])  # loads the weights
    return _seconds(partial(encoder.encode, sample)) * len(texts) / len(sample), f"{len(sample)} were timed"


def _prompts(job: Job, work: Work) -> tuple[float | None, str]:
    if (seconds := sum(work.asks.values(), CostEstimate()).seconds) is not None:
        return seconds, "at the speed of earlier runs"
    if job.config.llm.backend != "local":
        return None, f"no run has asked {job.config.llm.model} yet"
    sample = _spread(work.prompts, _PROMPTS)
    try:
        with asyncio.Runner() as runner, _backend(job, runner) as backend:
            runner.run(backend.complete(sample[:1]))  # loads the weights
            seconds = _seconds(lambda: runner.run(backend.complete(sample)))
    except UnusableBackendError as error:
        return None, str(error)
    return seconds * len(work.prompts) / len(sample), f"{len(sample)} were timed; larger batches are faster"


@contextmanager
def _backend(job: Job, runner: asyncio.Runner) -> Iterator[Backend]:
    """The language model; weights that no run has converted yet are converted in a folder that is removed. It is closed
    before the runner, which would wait for the end of a generation."""
    with tempfile.TemporaryDirectory() as folder:
        place = job.checkpoints if job.checkpoints.is_dir() else Path(folder)
        backend = open_backend(job.config.llm, place.absolute(), job.config.arithmetic)
        try:
            yield backend
        finally:
            runner.run(backend.close())


def _spread(all_of_them: Sequence[_T], most: int) -> list[_T]:
    """So many of them at most, evenly spread."""
    count = len(all_of_them)
    return [all_of_them[at * count // most] for at in range(most)] if count > most else list(all_of_them)


def _line(what: str, count: int, seconds: float | None, basis: str) -> str:
    if not count:
        return f"{what}: none that is not stored already"
    takes = "for an unknown time" if seconds is None else f"about {_minutes(seconds)}"
    return f"{what}: {count:,}, none of them twice or stored already, {takes}{f' ({basis})' if basis else ''}"


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return max(1e-6, time.perf_counter() - began)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
