"""``--dry-run``: what a run would ask, and what that would cost. Asks nothing and writes nothing.

The data set may be fetched, because nothing can be said without it. Answers that are still to come are stood in for by
texts of similar length, so that questions that quote them are counted too.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.artifact import RefusedModel
from offline.data.catalogue import Catalogue
from offline.data.dataset import open_dataset
from offline.data.languages.language import Language
from offline.data.log import InteractionLog
from offline.data.rules import Findings
from offline.jobs.events import Arrived, look_for_events, recent
from offline.jobs.ledger import RunLedger
from offline.jobs.llm_requests import (
    TEXTS,
    answered,
    import_lines,
    imported_texts,
    kinds_of_texts,
    take_shipped_answers,
    texts_of_recent,
)
from offline.jobs.one_producer import is_up_to_date, producer_inputs
from offline.jobs.refusals import of_log, of_settings, waiting
from offline.jobs.steps import Job, StepCache
from offline.knowledge import run as producers
from offline.knowledge.knowledge_texts import Answered, KnowledgeTexts
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.quality import usable
from offline.knowledge.run import load_knowledge
from offline.knowledge.vectors import Knowledge, Produced
from offline.llm.account import CACHE_FILE, tokens_per_second
from offline.llm.budget import BYTES_PER_TOKEN, CostEstimate
from offline.llm.protocol import Prompt
from offline.llm.session import LLMSession, open_session
from offline.publish.connection import store_if_there
from offline.publish.release import refusal_line, refused_model


@dataclass(frozen=True, slots=True)
class ProducerDryRun:
    """``asks`` holds only what no producer before it asks for. At most ``records`` records would be written. ``waits``
    says what a producer lacks that would therefore ask nothing."""

    name: str
    up_to_date: bool
    asks: CostEstimate
    records: int
    waits: str = ""


@dataclass(frozen=True, slots=True)
class DryRun:
    """``findings`` has as errors what a run would be refused for; ``refused`` is the model that was refused last."""

    job: Job
    arrived: Arrived
    producers: Sequence[ProducerDryRun]
    findings: Findings
    refused: RefusedModel | None = None

    @property
    def total(self) -> CostEstimate:
        return sum((producer.asks for producer in self.producers), CostEstimate())

    def lines(self) -> Iterator[str]:
        yield f"== plan of {self.job.config.name}: nothing is asked, nothing is written"
        yield f"  events: {self.arrived.summary}"
        yield from (f"  fact: {line}" for line in self.findings.facts)
        yield from (f"  warning: {line}" for line in self.findings.warnings)
        yield from (f"  a run would be refused: {line}" for line in self.findings.errors)
        yield from (f"  {line}" for line in import_lines(self.job))
        for producer in self.producers:
            if producer.waits:
                yield f"  {producer.name} would wait: {producer.waits}"
            elif producer.up_to_date:
                yield f"  {producer.name}: up to date"
            else:
                yield f"  {producer.name}: {producer.asks.summary()}; at most {producer.records} records to write"
        yield f"  together: {self.total.summary()}"
        if self.refused is not None:
            yield f"  unless another model is trained: {refusal_line(self.refused)}"
        budget = self.job.budget
        if budget.max_tokens is not None or budget.max_cost is not None:
            yield f"  budget: {'exceeded' if self.exceeds_budget else 'kept'}; a run stops at it and the next goes on"

    @property
    def exceeds_budget(self) -> bool:
        total, budget = self.total, self.job.budget
        amounts = (total.prompt_tokens + total.completion_tokens, budget.max_tokens), (total.cost, budget.max_cost)
        return any(limit is not None and amount > limit for amount, limit in amounts)

    def summary(self) -> dict[str, Any]:
        return {
            "events": {"interactions": len(self.arrived.log), "new": self.arrived.added},
            "producers": {
                producer.name: {
                    "up_to_date": producer.up_to_date,
                    "records": producer.records,
                    "waits": producer.waits,
                    **asdict(producer.asks),
                }
                for producer in self.producers
            },
            "total": asdict(self.total),
            "exceeds_budget": self.exceeds_budget,
            "objections": self.findings.errors,
            "refused": None if self.refused is None else self.refused.release,
        }


def dry_run(job: Job, only: Sequence[str] | None = None) -> DryRun:
    """The dry run of all producers, or of ``only``."""
    source = open_dataset(job.config.data, job.raw)
    source.fetch()
    catalogue = source.catalogue()
    with store_if_there(job.data_dir, job.config.name) as store:
        arrived = look_for_events(job, source, catalogue, store)
        refused = None if store is None else refused_model(store)
    names = [name for name in producers.producers_of(job.config.feature_schema) if only is None or name in only]
    known = load_knowledge(job.knowledge, job.config.feature_schema, arrived.log)
    current = {name: producer_inputs(job, name, source, arrived.log) for name in names}
    stale = [name for name in names if name not in known.produced or not is_up_to_date(job, name, current[name])]
    lacking = waiting(job, catalogue, arrived.log, [name for name in stale if name not in known.produced])
    asking = [name for name in stale if name not in lacking]
    asks = _asks(job, asking, catalogue, arrived.log)
    # the log only ever grows, so what was known still holds; any other input may have changed every record
    grown = [name for name in stale if job.use_cache and StepCache(job).changed(name, current[name]) <= {"log"}]
    due = _records_due(job, arrived.log, catalogue, known.of(grown))
    planned = [
        ProducerDryRun(
            name,
            name not in stale,
            asks.get(name, CostEstimate()),
            due[name] if name in asking else 0,
            lacking.get(name, ""),
        )
        for name in names
    ]
    return DryRun(job, arrived, planned, _findings(job, catalogue, arrived.log), refused)


def _findings(job: Job, catalogue: Catalogue, log: InteractionLog) -> Findings:
    """What can be told of the settings and the log before a run, as `validate` tells it."""
    settings = of_settings(job)
    if settings.errors:
        return settings
    left = of_log(job, catalogue, log)
    return Findings(left.facts, settings.warnings + left.warnings, left.errors)


def _asks(job: Job, names: Sequence[str], catalogue: Catalogue, log: InteractionLog) -> dict[str, CostEstimate]:
    """Estimates of what each producer would ask, in order; a text that several read is counted where it comes first."""
    estimates: dict[str, CostEstimate] = {}
    kinds = list(kinds_of_texts(job, names))
    if not kinds:
        return estimates
    with _session_on_a_copy(job) as session:
        ask = _Pretending(session, job.config.data.texts.spoken)
        if job.since_ms is not None:
            texts = texts_of_recent(job, recent(job, log), catalogue, log, ask)
        else:
            of_all = KnowledgeTexts(job.domain(catalogue, log), ask, imported_texts(job))
            texts = {"items": of_all, "partitions": of_all}
        for name in names:
            before = session.cost_estimate
            for kind in [kind for kind in kinds if kind in TEXTS[name]]:
                kinds.remove(kind)
                getattr(texts["items" if kind == "items" else "partitions"], kind)
            estimates[name] = session.cost_estimate - before
    return estimates


class _Pretending:
    """Answers from the cache, and with words that say nothing where it has none."""

    def __init__(self, session: LLMSession, language: Language) -> None:
        self._session = session
        self._language = language
        self._pretended = 0

    def __call__(self, prompts: list[Prompt], label: str) -> Answered:
        answers = answered(usable(self._session, prompts, f"  {label}", self._language))
        texts = [
            self._pretend(prompt) if absent else text
            for prompt, text, absent in zip(prompts, answers.texts, answers.absent, strict=True)
        ]
        return Answered(texts, [False] * len(texts))

    def _pretend(self, prompt: Prompt) -> str:
        self._pretended += 1  # no two alike: questions that quote them are different questions
        return f"{self._pretended} ".ljust(round(prompt.max_tokens * BYTES_PER_TOKEN), "x")


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
        rate = partial(tokens_per_second, RunLedger(job.config.workdir).accounts())
        with open_session(job.config.llm, copy, use_cache=job.use_cache, dry_run=True, rate=rate) as session:
            take_shipped_answers(job, session)
            yield session


def _records_due(job: Job, log: InteractionLog, catalogue: Catalogue, grown: Knowledge) -> dict[str, int]:
    """At most so many records would change, by producer: everybody's of whom something can be known; of the ``grown``
    ones, those about whom there is more to know than was known."""
    imported = imported_texts(job)
    versions = np.diff(close_partitions(log, job.config.knowledge.liber.trigger).start)
    if imported is not None:
        about = Counter(text.user for text in imported.users if text.partition is None)
        versions = versions + np.array([about[user] for user in log.user_ids], np.int64)
    described = np.array([job.config.data.texts.describes(catalogue.items.get(item, {})) for item in log.item_ids])
    has_text = described | np.array([imported is not None and item in imported.items for item in log.item_ids])
    due: dict[str, int] = {}
    for spec in job.config.feature_schema.knowledge:
        produced = grown.produced.get(spec.name, Produced())
        if spec.side == "user":
            count = versions > 0 if produced.users is None else versions != np.diff(produced.users.start)
        else:
            known = has_text if "items" in TEXTS[spec.name] else described
            count = known if produced.items is None else known & ~produced.items.known
        due[spec.name] = due.get(spec.name, 0) + int(count.sum())
    return due
