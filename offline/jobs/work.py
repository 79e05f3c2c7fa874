"""What a run would ask and encode, told without doing either: words of similar length stand in for answers to come, so
that questions and texts that quote them are counted too."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.jobs.events import recent
from offline.jobs.ledger import RunLedger
from offline.jobs.llm_requests import (
    ABOUT_NOBODY,
    TEXTS,
    ask_of,
    imported_texts,
    kinds_of_texts,
    take_shipped_answers,
    texts_of_recent,
)
from offline.jobs.steps import Job
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.knowledge.groups import likely_prompts
from offline.knowledge.knowledge_texts import Answered, Domain, KnowledgeTexts
from offline.knowledge.pooling import EncoderError
from offline.knowledge.prompts import plain_text
from offline.knowledge.run import ENCODED
from offline.llm.account import CACHE_FILE, speed_of
from offline.llm.budget import BYTES_PER_TOKEN, CostEstimate
from offline.llm.protocol import Prompt
from offline.llm.session import LLMSession, open_session

_FILLER = "some words of an answer that is still to come "


@dataclass(frozen=True, slots=True)
class Work:
    """``asks`` holds by producer only what no producer before it asks for. ``prompts`` are the different ones that have
    no answer, ``texts`` the different ones whose vectors are not stored."""

    asks: Mapping[str, CostEstimate]
    prompts: Sequence[Prompt]
    texts: Sequence[str]


def work_of(job: Job, names: Sequence[str], catalogue: Catalogue, log: InteractionLog) -> Work:
    """The work of the producers ``names``, in order. UnusableBackendError without the weights of a local model."""
    kinds, asks = list(kinds_of_texts(job, names)), dict.fromkeys(names, CostEstimate())
    domain, vocabulary = job.domain(catalogue, log), job.config.data.texts
    texts, of_partitions = list[str](), list[str]()
    if {"text", "groups"} & set(names):
        described = (catalogue.items.get(item, {}) for item in log.item_ids)
        texts += [plain_text(vocabulary, features) for features in described if vocabulary.describes(features)]
    if not kinds:
        return Work(asks, [], _not_stored(job, texts, of_partitions))
    with _session_on_a_copy(job) as session:
        ask = _Pretending(job, session)
        if job.since_ms is not None:
            by_kind = texts_of_recent(job, recent(job, log), catalogue, log, ask)
        else:
            of_all = KnowledgeTexts(domain, ask, imported_texts(job))
            by_kind = {"items": of_all, "partitions": of_all}
        for name in names:
            before = session.cost_estimate
            for kind in [kind for kind in kinds if kind in TEXTS[name]]:
                kinds.remove(kind)
                if kind == "groups" and job.since_ms is None:
                    by_kind["items"].ask_groups(_about_groups(job, domain))
                getattr(by_kind["items" if kind in ABOUT_NOBODY else "partitions"], kind)
            asks[name] = session.cost_estimate - before
        if "autograph" in names:
            texts += by_kind["items"].items.texts
            texts += by_kind["partitions"].versions.texts
        if "liber" in names:
            of_partitions += by_kind["partitions"].versions.texts
        if "liber" in names and job.config.knowledge.liber.shift:
            of_partitions += by_kind["partitions"].shifts_of(by_kind["partitions"].versions)
        return Work(asks, list(dict.fromkeys(ask.open)), _not_stored(job, texts, of_partitions))


def _not_stored(job: Job, texts: Sequence[str], of_partitions: Sequence[str]) -> Sequence[str]:
    """The different ones of ``texts``, and of those that LIBER encodes ``of_partitions``, that are to be encoded; all
    of them while there is no encoder."""
    config, encoder = job.config.knowledge, _encoder(job)
    store = VectorStore(job.knowledge / ENCODED, encoder, config.shipped_vectors if job.use_cache else None)
    if config.partition_tokens == config.encoder_tokens:
        return _not_in(store, [*texts, *of_partitions])
    longer = TextEncoder(config.encoder, config.partition_tokens, job.config.arithmetic)
    return [*_not_in(store, texts), *_not_in(replace(store, encoder=longer, shipped_as=encoder.id), of_partitions)]


def _encoder(job: Job) -> TextEncoder:
    config = job.config.knowledge
    return TextEncoder(config.encoder, config.encoder_tokens, job.config.arithmetic)


def _about_groups(job: Job, domain: Domain) -> list[Prompt]:
    """Questions about groups; such as there may be, while there are no groups or no encoder."""
    try:
        return likely_prompts(domain, job.knowledge / "groups", _encoder(job).id)
    except EncoderError:
        return likely_prompts(domain, job.knowledge / "groups", "")


def _not_in(store: VectorStore, texts: Sequence[str]) -> Sequence[str]:
    different = list(dict.fromkeys(text for text in texts if text))
    try:
        return store.not_stored(different)
    except EncoderError:
        return different


class _Pretending:
    """Answers from the cache, and with words that say nothing where it has none; those prompts are ``open``."""

    def __init__(self, job: Job, session: LLMSession) -> None:
        self.open: list[Prompt] = []
        self._ask = ask_of(job, session)

    def __call__(self, prompts: list[Prompt], label: str) -> Answered:
        answers = self._ask(prompts, f"  {label}")
        texts = [
            self._pretend(prompt) if absent else text
            for prompt, text, absent in zip(prompts, answers.texts, answers.absent, strict=True)
        ]
        return Answered(texts, [False] * len(texts))

    def _pretend(self, prompt: Prompt) -> str:
        self.open.append(prompt)
        if prompt.choices:
            return ""  # nothing quotes it
        length = round(prompt.max_tokens * BYTES_PER_TOKEN)
        # no two alike: questions that quote them are different questions
        return f"{len(self.open)} {_FILLER * (length // len(_FILLER) + 1)}"[:length].rstrip()


@contextmanager
def _session_on_a_copy(job: Job) -> Iterator[LLMSession]:
    """A session that asks nothing, over a copy of the answers, into which the shipped ones are imported."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        if (job.llm / CACHE_FILE).is_file():
            with (
                closing(sqlite3.connect(job.llm / CACHE_FILE)) as source,
                closing(sqlite3.connect(copy / CACHE_FILE)) as target,
            ):
                source.backup(target)
        speed = partial(speed_of, RunLedger(job.config.workdir).accounts())
        with open_session(job.config.llm, copy, use_cache=job.use_cache, dry_run=True, speed=speed) as session:
            take_shipped_answers(job, session)
            yield session
