"""One producer: what its result depends on, whether that is up to date, its records published within the live release,
and taken back."""

from __future__ import annotations

from functools import partial
from typing import Any

from offline.data.catalogue import DataError
from offline.data.dataset import Dataset
from offline.data.files import file_digest
from offline.data.log import InteractionLog
from offline.jobs.events import recent_users
from offline.jobs.ledger import RunLedger
from offline.jobs.runs import Run
from offline.jobs.steps import Job, StepCache
from offline.knowledge import run as producers
from offline.knowledge.config import PACKAGED_ENCODER
from offline.knowledge.encoder import TextEncoder
from offline.knowledge.run import ProducerState
from offline.knowledge.vectors import Knowledge, Produced
from offline.publish.connection import Store
from offline.publish.producer import rollback_producer
from offline.publish.publish import Published, publish_producer
from offline.publish.staging import end_change
from offline.publish.tombstones import TombstoneWatch
from offline.publish.undo import JOURNAL_FILE, Journal


def producer_inputs(job: Job, name: str, source: Dataset, log: InteractionLog) -> dict[str, Any]:
    """The inputs that a producer's result depends on; how answers are fetched is none of them."""
    config, schema = job.config, job.config.feature_schema
    excluded = {*producers.ORDER, "shipped_responses", "shipped_vectors", "ttl_days"}
    llm = config.llm.model_dump(mode="json", include={"backend", "model"})
    shared = config.knowledge.model_dump(mode="json", exclude=excluded)
    if config.knowledge.encoder != PACKAGED_ENCODER:  # other weights may lie in the same folder
        shared["encoder"] = TextEncoder(config.knowledge.encoder, config.knowledge.encoder_tokens).id
    return {
        "shared": shared,
        "own": getattr(config.knowledge, name).model_dump(mode="json"),
        "partitions": config.knowledge.liber.model_dump(mode="json"),
        "samples": config.samples.model_dump(mode="json"),
        "specs": [spec.model_dump() for spec in schema.knowledge if spec.name == name],
        "words": config.data.texts.form,
        "liked_above": schema.liked_above,
        "llm": None if name == "text" else llm,
        "log": producers.log_digest(log),
        **({"closings": list(log.closings)} if log.closings else {}),
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


def publish_one(
    run: Run, store: Store, log: InteractionLog, knowledge: Knowledge, name: str, *, return_to: bool = False
) -> Published:
    """One producer's changed records, within the live release."""
    if name not in knowledge.produced:
        raise DataError(f"{name} has made nothing yet: run `refresh` or `knowledge` first")
    with run.step(f"publish: {name}") as watch:
        config, produced, users = run.job.config, knowledge.produced[name], recent_users(run.job, log)
        published = publish_producer(config, store, log, produced, name, users=users, return_to=return_to)
        run.published(published)
        watch.done(f"live: {published.release}, as before")
        return published


def roll_back_one(run: Run, store: Store, name: str) -> None:
    """Take back a producer's last publication within the live release; it stays held until `publish --return`."""
    workdir = run.job.config.workdir
    with run.step(f"rollback: {name}") as watch, Journal(workdir / JOURNAL_FILE) as journal:
        ending = partial(end_change, run.job.config, store)
        result = rollback_producer(store, journal, name, ending, TombstoneWatch(store, workdir))
        run.record.release = result.release
        run.record.records["restored"] = {"written": result.restored, "unchanged": result.left, "bytes": result.size}
        watch.done(
            f"{', '.join(result.spaces)}: {result.restored} records restored, {result.removed} removed, "
            f"{result.left} left as they are"
        )
