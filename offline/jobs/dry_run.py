"""``--dry-run``: what a run would ask, and what that would cost. Changes nothing that a run has made.

The data set may be fetched, and rows of it that are left out listed, because nothing can be said without it. What is
asked of a model in this process to see how fast it is, is stored nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.contract.artifact import RefusedModel
from offline.data.catalogue import Catalogue
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.data.rules import Findings
from offline.jobs.events import Arrived, look_for_events
from offline.jobs.llm_requests import TEXTS, import_lines, imported_texts
from offline.jobs.one_producer import is_up_to_date, producer_inputs
from offline.jobs.rates import Durations, measure
from offline.jobs.refusals import of_log, of_settings, waiting
from offline.jobs.runs import check_owner
from offline.jobs.steps import Job, StepCache
from offline.jobs.work import Work, work_of
from offline.knowledge import run as producers
from offline.knowledge.groups import version_counts
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.run import load_knowledge
from offline.knowledge.vectors import Knowledge, Produced
from offline.llm.budget import CostEstimate
from offline.publish.connection import store_if_there
from offline.publish.release import live_release, refusal_line, refuse_another, refused_model


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
    """``findings`` has as errors what a run would be refused for; ``durations`` say how long the ``work`` takes;
    ``refused`` is the model that was refused last; with ``asks_later``, the run asks nothing, as nothing is live."""

    job: Job
    arrived: Arrived
    producers: Sequence[ProducerDryRun]
    findings: Findings
    work: Work
    durations: Durations
    refused: RefusedModel | None = None
    asks_later: bool = False

    @property
    def total(self) -> CostEstimate:
        return sum((producer.asks for producer in self.producers), CostEstimate())

    def lines(self) -> Iterator[str]:
        yield f"== plan of {self.job.config.name}: nothing of it is done yet"
        if self.arrived.rebuilt is not None:
            yield f"  {self.arrived.rebuilt.summary}; the models are trained anew"
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
                yield f"  {producer.name}: {producer.asks.summary()}; at most {producer.records:,} records to write"
        if sum(producer.asks.to_ask > 0 for producer in self.producers) > 1:
            yield f"  together: {self.total.summary()}"
        if self.asks_later:
            yield "  nothing is live, so a first refresh asks nothing; the next one does, or --ask-at-once"
        yield from (f"  {line}" for line in self.durations.lines(self.work))
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
            "texts_to_encode": len(self.work.texts),
            "exceeds_budget": self.exceeds_budget,
            "objections": self.findings.errors,
            "refused": None if self.refused is None else self.refused.release,
        }


def dry_run(job: Job, only: Sequence[str] | None = None, *, measured: bool = False) -> DryRun:
    """The dry run of all producers, or of ``only``; if ``measured``, with the time that texts and prompts take here.
    DataError and SwitchError if the work folder or the live release is another configuration's."""
    check_owner(job)
    source = open_dataset(job.config.data, job.raw)
    source.fetch()
    catalogue = source.catalogue()
    with store_if_there(job.data_dir, job.config.name) as store:
        if store is not None and not job.take_over:
            refuse_another(store, job.config.name)
        arrived = look_for_events(job, source, catalogue, store)
        refused = None if store is None else refused_model(store)
        asks_later = job.live_first and (store is None or live_release(store) is None)
    names = [name for name in producers.producers_of(job.config.feature_schema) if only is None or name in only]
    known = load_knowledge(job.knowledge, job.config.feature_schema, arrived.log)
    current = {name: producer_inputs(job, name, source, arrived.log) for name in names}
    stale = [name for name in names if name not in known.produced or not is_up_to_date(job, name, current[name])]
    lacking = waiting(job, catalogue, arrived.log, [name for name in stale if name not in known.produced])
    asking = [name for name in stale if name not in lacking]
    work = work_of(job, asking, catalogue, arrived.log)
    # a log that grew leaves what was known as it was; any other input may have changed every record
    as_before = job.use_cache and arrived.rebuilt is None
    grown = [name for name in stale if as_before and StepCache(job).changed(name, current[name]) <= {"log"}]
    due = _records_due(job, arrived.log, catalogue, known.of(grown))
    planned = [
        ProducerDryRun(
            name,
            name not in stale,
            work.asks.get(name, CostEstimate()),
            due[name] if name in asking else 0,
            lacking.get(name, ""),
        )
        for name in names
    ]
    findings = _findings(job, catalogue, arrived)
    durations = measure(job, work) if measured and not findings.errors else Durations()
    return DryRun(job, arrived, planned, findings, work, durations, refused, asks_later)


def _findings(job: Job, catalogue: Catalogue, arrived: Arrived) -> Findings:
    """What can be told of the settings, of data that were not looked at yet, and of the log before a run, as `validate`
    tells it."""
    settings, of_data = of_settings(job), arrived.findings
    if settings.errors:
        return settings
    left = of_log(job, catalogue, arrived.log)
    return Findings(of_data.facts + left.facts, settings.warnings + of_data.warnings + left.warnings, left.errors)


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
            of_user = version_counts(job.domain(catalogue, log), described) if spec.name == "groups" else versions
            count = of_user > 0 if produced.users is None else of_user != np.diff(produced.users.start)
        else:
            known = has_text if "items" in TEXTS[spec.name] else described
            count = known if produced.items is None else known & ~produced.items.known
        due[spec.name] = due.get(spec.name, 0) + int(count.sum())
    return due
