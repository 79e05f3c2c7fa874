"""The whole offline pipeline in order. Read this first.

    data       interactions and catalogue from their source             once
    events     interactions that the service streamed since the last mark
    knowledge  items and closed user partitions -> language model -> vectors in a frozen space
    train      CTR models on the older part, judged on the newer; ONNX export   when spaces changed or the log grew
    publish    changed records -> Redis; a new model is a new release: stage, gate, switch

Every stage is incremental: what is unchanged is neither computed nor written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from offline.data import movielens
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.data.validate import validate
from offline.knowledge.build import Knowledge, build_knowledge
from offline.knowledge.encoder import TextEncoder, VectorStore
from offline.llm.session import LLMSession, open_session
from offline.publish.connection import Store, open_store
from offline.publish.stage import Published, publish
from offline.publish.streams import new_interactions
from offline.stages import Job, Stages, exclusive, stage
from offline.training.report import TrainingReport, markdown
from offline.training.samples import split_samples


def refresh(job: Job) -> Published:
    """Run every stage that has something to do; afterwards the service answers from the result."""
    with exclusive(job), open_store(job.data_dir) as store:
        catalogue = data(job)
        log = events(job, catalogue, store)
        knowledge = make_knowledge(job, catalogue, log)
        report = train_models(job, catalogue, log, knowledge)
        return publish_release(job, store, catalogue, log, knowledge, report)


def data(job: Job) -> Catalogue:
    """The catalogue; fetches the data set on the first run."""
    with stage("data") as watch:
        fetched = movielens.fetch(job.raw)
        catalogue = movielens.read_catalogue(job.raw)
        watch.done(f"{len(catalogue.users)} users, {len(catalogue.items)} items{'' if fetched else ', already here'}")
        return catalogue


def events(job: Job, catalogue: Catalogue, store: Store | None) -> InteractionLog:
    """The interaction log, with everything the service streamed since the last refresh appended."""
    with stage("events") as watch:
        if job.log.is_file():
            log = InteractionLog.load(job.log)
        else:
            rows = list(movielens.read_ratings(job.raw))
            validate(job.config.feature_schema, catalogue, rows).raise_if_broken()
            log = InteractionLog.sorted_by_time(rows, list(catalogue.users), list(catalogue.items))
            log.save(job.log)
        added = refused = 0
        if store is not None:
            streamed, mark, refused = new_interactions(store, log.stream_mark)
            if mark != log.stream_mark:
                schema = job.config.feature_schema
                rated = [one for one in streamed if one.type in schema.history_types]
                accepted = [one for one in rated if schema.accepts(one.value)]
                refused += len(rated) - len(accepted)
                log, added = log.extended(accepted, mark)
                log.save(job.log)
        watch.done(f"{len(log)} interactions, {added} of them new, {refused} stream entries refused")
        return log


def make_knowledge(job: Job, catalogue: Catalogue, log: InteractionLog) -> Knowledge:
    """Knowledge of all items and of all closed user partitions."""
    config, schema = job.config.knowledge, job.config.feature_schema
    stages = Stages(job)
    inputs = {
        "knowledge": config.model_dump(mode="json"),
        "llm": job.config.llm.model_dump(mode="json"),
        "schema": schema.fingerprint,
        "log": _digest(log),
    }
    with stage("knowledge") as watch:
        if job.use_cache and stages.is_current("knowledge", inputs, *Knowledge.files(job.knowledge)):
            watch.done("up to date")
            return Knowledge.load(job.knowledge)
        encoder = TextEncoder(config.encoder, config.encoder_tokens)
        with language_model(job, "knowledge") as session:
            knowledge = build_knowledge(
                config,
                schema,
                catalogue,
                log,
                split_samples(job.config.samples, log).trained_rows,
                lambda prompts, label: session.complete_all(prompts, f"  {label}"),
                session.ledger.model_id,
                VectorStore(job.knowledge / "encoded.npz", encoder),
                encoder.id,
                job.knowledge,
            )
            print(f"  {session.ledger.summary()}", flush=True)
        knowledge.save(job.knowledge)
        stages.finished("knowledge", inputs, watch.seconds)
        watch.done(f"{int(knowledge.known_items.sum())} items and {len(knowledge.partitions)} user partitions")
        return knowledge


def train_models(job: Job, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge) -> TrainingReport:
    """The CTR models; trains only if its configuration or a space changed, or the log grew enough."""
    config = job.config
    stages = Stages(job)
    inputs = {
        "training": config.training.model_dump(mode="json"),
        "samples": config.samples.model_dump(mode="json"),
        "schema": config.feature_schema.fingerprint,
        "spaces": {side: space.fingerprint for side, space in knowledge.spaces.items()},
    }
    with stage("train") as watch:
        path = job.models / "report.json"
        if not job.retrain and stages.is_current("train", inputs, path):
            report = TrainingReport.load(path)
            complete = (job.models / report.artifact).is_file()
            if complete and len(log) < report.log_rows * (1 + config.training.retrain_growth):
                watch.done(f"up to date, {report.artifact}")
                return report
        from offline.training.run import train  # torch only where it is needed: an idle refresh starts in a second

        report = train(config, catalogue, log, knowledge, job.models)
        stages.finished("train", inputs, watch.seconds)
        print(markdown(report.table), flush=True)
        watch.done(f"{report.artifact}, ONNX differs from torch by at most {report.parity:.1e}")
        return report


def publish_release(
    job: Job,
    store: Store,
    catalogue: Catalogue,
    log: InteractionLog,
    knowledge: Knowledge,
    report: TrainingReport,
    *,
    return_to: bool = False,
) -> Published:
    """Changed records, and a new release if there is a new model."""
    with stage("publish") as watch:
        published = publish(job.config, store, catalogue, log, knowledge, report, job.models, return_to=return_to)
        for name, count in published.records.items():
            print(f"  {name}: {count.written} written, {count.unchanged} unchanged", flush=True)
        if published.switched:
            watch.done(f"live: {published.release}, before: {published.live_before or 'nothing'}")
        elif published.live_before == published.release:
            watch.done(f"live: {published.release}, as before")
        else:
            watch.done(f"live: {published.live_before}; {published.release} was rolled back and stays off")
        return published


@contextmanager
def language_model(job: Job, run: str) -> Iterator[LLMSession]:
    """The job's language model with its answer cache, into which the shipped answers are imported; see the ledger's
    entry named ``run`` for what was paid."""
    with open_session(job.config.llm, job.llm, run, use_cache=job.use_cache) as session:
        shipped = job.config.knowledge.shipped_responses
        if job.use_cache and shipped is not None:
            session.cache.import_jsonl_gz(shipped)
        yield session


def _digest(log: InteractionLog) -> str:
    digest = hashlib.sha256()
    for column in (log.user, log.item, log.value, log.time_ms):
        digest.update(column.tobytes())
    return digest.hexdigest()
