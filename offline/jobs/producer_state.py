"""A producer from outside: what its result depends on, and whether it is up to date."""

from __future__ import annotations

from typing import Any

from offline.data.dataset import Dataset
from offline.data.files import file_digest
from offline.data.log import InteractionLog
from offline.jobs.ledger import RunLedger
from offline.jobs.steps import Job, StepCache
from offline.knowledge import run as producers
from offline.knowledge.run import ProducerState
from offline.knowledge.vectors import Produced


def producer_inputs(job: Job, name: str, source: Dataset, log: InteractionLog) -> dict[str, Any]:
    """All that a producer's result depends on; how answers are fetched is no part of it."""
    config, schema = job.config, job.config.feature_schema
    excluded = {*producers.ORDER, "shipped_responses", "shipped_vectors", "ttl_days"}
    llm = config.llm.model_dump(mode="json", include={"backend", "model"})
    return {
        "shared": config.knowledge.model_dump(mode="json", exclude=excluded),
        "own": getattr(config.knowledge, name).model_dump(mode="json"),
        "partitions": config.knowledge.liber.model_dump(mode="json"),
        "samples": config.samples.model_dump(mode="json"),
        "specs": [spec.model_dump() for spec in schema.knowledge if spec.name == name],
        "words": config.data.texts.form,
        "liked_above": schema.liked_above,
        "llm": None if name == "text" else llm,
        "log": producers.log_digest(log),
        "source": source.described,
        "imported": file_digest(job.imported),
    }


def is_up_to_date(job: Job, name: str, inputs: dict[str, Any]) -> bool:
    """Whether a producer finished with these inputs, and nothing is to be asked."""
    if not job.use_cache or job.ask_refused:
        return False
    return StepCache(job).is_current(name, inputs) and Produced.is_saved(job.knowledge / name)


def all_wait(job: Job) -> bool:
    """Whether no producer could begin when they were last asked to."""
    for run in reversed(RunLedger(job.config.workdir).runs()):
        if states := {producer.state for producer in run.producers.values()}:
            return states == {ProducerState.WAITS}
    return False
