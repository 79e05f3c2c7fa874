"""How long a configuration's texts will take on this machine, measured with a batch of texts and one of prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.jobs.ledger import RunLedger
from offline.jobs.steps import Job
from offline.knowledge.encoder import TextEncoder
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.prompts import item_prompt, plain_text
from offline.knowledge.run import producers_of
from offline.llm.account import tokens_per_second
from offline.llm.protocol import UnusableBackendError
from offline.llm.session import open_session

_TEXTS, _PROMPTS = 64, 8
_UNKNOWN_TOKENS = 64
"""Tokens of an answer that is still to come: what a prompt allows by default."""


@dataclass(frozen=True, slots=True)
class Work:
    """Texts that a configuration encodes, and prompts that it asks, if nothing of them is stored yet."""

    texts: int
    prompts: int

    @classmethod
    def of(cls, job: Job, catalogue: Catalogue, log: InteractionLog, waiting: Collection[str] = ()) -> Work:
        """The work of all producers but those that are ``waiting`` for more data, which ask and encode nothing."""
        producers = set(producers_of(job.config.feature_schema)).difference(waiting)
        texts = job.config.data.texts
        described = sum(texts.describes(catalogue.items.get(item, {})) for item in log.item_ids)
        asks = producers & {"autograph", "marc"}
        prompts = described if asks else 0
        encoded = described * (("text" in producers) + bool(asks))
        if producers & {"liber", "autograph", "marc"}:
            partitions = close_partitions(log, job.config.knowledge.liber.trigger)
            shifts = 0
            if "liber" in producers and job.config.knowledge.liber.shift:
                shifts = len(partitions) - int(partitions.first_of_user().sum())
            prompts += len(partitions) + shifts
            encoded += len(partitions) + shifts
        return cls(encoded, prompts)


@dataclass(frozen=True, slots=True)
class Rates:
    """Texts encoded and prompts answered per second; None where nothing tells. ``basis`` says what told it."""

    texts: float | None
    prompts: float | None
    basis: str

    def lines(self, work: Work) -> Iterator[str]:
        """What the work will take, for people."""
        if work.texts and self.texts:
            takes = f"about {_minutes(work.texts / self.texts)} ({_TEXTS} were timed)"
            yield f"texts to encode, if none is stored yet: {work.texts:,}, {takes}"
        if work.prompts:
            takes = f"about {_minutes(work.prompts / self.prompts)}" if self.prompts else "for an unknown time"
            yield f"prompts to ask, if none is answered yet: {work.prompts:,}, {takes} ({self.basis})"


def measure(job: Job, catalogue: Catalogue, work: Work) -> Rates:
    """The rates of this machine. A model on a server is not asked for it, because that is paid: earlier runs tell its
    rate. EncoderError without the encoder's weights. Holds no work folder, so it records no account of a run."""
    vocabulary = job.config.data.texts
    described = [features for features in catalogue.items.values() if vocabulary.describes(features)]
    texts = None
    if work.texts and described:
        sample = [plain_text(vocabulary, features) for features in described[:: max(1, len(described) // _TEXTS)]][
            :_TEXTS
        ]
        encoder = TextEncoder(job.config.knowledge.encoder, job.config.knowledge.encoder_tokens, job.config.arithmetic)
        encoder.encode(sample[:1])  # loads the weights
        texts = len(sample) / _seconds(partial(encoder.encode, sample))
    if not work.prompts or not described:
        return Rates(texts, None, "")
    try:
        rate, basis = _prompt_rate(job, described)
    except UnusableBackendError as error:
        rate, basis = None, str(error)
    return Rates(texts, rate, basis)


def _prompt_rate(job: Job, described: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
    """Prompts per second and what tells it. UnusableBackendError without the weights of a local model."""
    with open_session(job.config.llm, job.llm, dry_run=True, precision=job.config.arithmetic) as session:
        if job.config.llm.backend != "local":
            model = session.account.model_id
            rate = tokens_per_second(RunLedger(job.config.workdir).accounts(), model)
            basis = f"as {model} answered in earlier runs" if rate else f"no run has asked {model} yet"
            return rate / _UNKNOWN_TOKENS if rate else None, basis
        tokens = job.config.knowledge.item_tokens
        prompts = [item_prompt(job.config.data.texts, features, tokens) for features in described[:_PROMPTS]]
        session.complete_batch(prompts[:1])  # loads the weights
        seconds = _seconds(partial(session.complete_batch, prompts))
    return len(prompts) / seconds, f"{len(prompts)} of them were timed; larger batches are faster"


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return max(1e-6, time.perf_counter() - began)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
