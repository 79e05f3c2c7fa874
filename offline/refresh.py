"""The whole offline pipeline in order. Read this first.

    check      what could not end well, before it costs anything
    forget     users who are forgotten, in all that earlier runs stored; requests that wait      when there are any
    data       interactions and catalogue from their source             once
    events     interactions that the service streamed, or that files gained, since the last run
    knowledge  each producer in turn: text, LIBER, AutoGraph, MARC, groups, numbers -> vectors in frozen spaces
    train      CTR models on the older part, judged on the newer; ONNX export   when spaces changed or the log grew
    publish    changed records -> Redis; a new model is a new release: compare, stage, gate, switch

Every stage is incremental: what is unchanged is neither computed nor written again. What a language model that is down,
throttled or out of budget leaves open makes the run partial: what is finished is published, the rest is the next run's.
A first refresh from the command line asks no language model, so that something is live within minutes.
A model that the gate refuses makes it partial too: all but the model is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from offline.data.bad_rows import bad_rows_note
from offline.data.catalogue import Catalogue, joined
from offline.data.dataset import BAD_ROWS, Dataset, open_dataset
from offline.data.log import InteractionLog
from offline.data.rebuild import copy_beside
from offline.data.rules import counted
from offline.engine.engines import Engine, open_engine
from offline.forgetting.export import answer_exports
from offline.forgetting.run import forget_users
from offline.jobs import refusals
from offline.jobs.events import Arrivals, look_for_events, recent, recent_users
from offline.jobs.ledger import ProducerSummary
from offline.jobs.llm_requests import LLMRun, imported_texts, kinds_of_texts, knowledge_run, take_shipped_answers
from offline.jobs.one_producer import is_up_to_date, producer_inputs
from offline.jobs.owner_texts import publish_texts
from offline.jobs.requests import answer_requests, close_asked_partitions
from offline.jobs.runs import Run
from offline.jobs.steps import Job, StepCache
from offline.knowledge import run as producers
from offline.knowledge.run import ProducerState, load_knowledge
from offline.knowledge.vectors import Knowledge, Produced, forget_former
from offline.llm.arithmetic import arithmetic_line
from offline.llm.budget import Budget
from offline.llm.session import LLMSession, open_session
from offline.publish.connection import Store, open_store
from offline.publish.publish import Published, publish
from offline.publish.release import live_release, refuse_another, refused_model
from offline.publish.requests import change_request
from offline.publish.staging import Contents, release_id
from offline.publish.tombstones import ForgottenUsers
from offline.training.candidates import former_choice
from offline.training.report import TrainingReport, summary
from offline.training.retraining import Retraining


def refresh(job: Job) -> Published:
    """Run every stage that has something to do; afterwards the service answers from the result."""
    with Run(job, "refresh").working() as run:
        return all_stages(run)


def all_stages(run: Run) -> Published:
    """All stages of a run that holds the work folder."""
    refusals.check_settings(run.job)
    with open_store(run.job.data_dir, run.job.config.name) as store:
        forget_users(run, store)
        answer_requests(run.job, store)
        answer_exports(run, store)
        source, catalogue = data(run)
        log = events(run, source, catalogue, store)
        refusals.check_log(run.job, source, catalogue, log)
        if run.job.live_first and live_release(store) is None:
            run.job, run.asks_later = replace(run.job, budget=Budget(max_tokens=0)), True
        knowledge = make_knowledge(run, source, catalogue, log)
        report = train_models(run, catalogue, log, knowledge)
        published = publish_release(run, store, Contents(catalogue, log, knowledge, report, run.job.models))
        if run.job.config.publish.texts:
            with run.step("publish: texts") as watch:
                counts = publish_texts(run.job, store, catalogue, log)
                watch.done(", ".join(f"{count:,} {side}" for side, count in counts.items()) or "there are none")
        return published


def data(run: Run) -> tuple[Dataset, Catalogue]:
    """The data set's source and its catalogue; fetches it on the first run."""
    with run.step("data") as watch:
        source = open_dataset(run.job.config.data, run.job.raw)
        fetched = source.fetch()
        catalogue = ForgottenUsers.load(run.job.config.workdir).without(source.catalogue())
        users = f"{counted(len(catalogue.users), 'user')} and " if catalogue.users else ""
        items = counted(len(catalogue.items), "item")
        watch.done(f"{users}{items} described{'' if fetched else ', already here'}")
        return source, catalogue


def events(run: Run, source: Dataset, catalogue: Catalogue, store: Store | None) -> InteractionLog:
    """The interaction log, with everything that arrived since the last run appended.

    SwitchError if the stream is another configuration's, unless the job takes over from it.
    """
    job = run.job
    if store is not None and not job.take_over:
        refuse_another(store, job.config.name)
    with run.step("events") as watch:
        arrived = look_for_events(job, source, catalogue, store)
        log, answers = close_asked_partitions(job, store, arrived.log)
        arrived = replace(arrived, log=log)
        refusals.heed(arrived.findings)
        arrivals = Arrivals(job.arrivals)
        if arrived.rebuilt is not None:
            print(f"  {arrived.rebuilt.summary}; the former log is kept in {copy_beside(job.log)}", flush=True)
            if (texts := imported_texts(job)) is not None:
                texts.held_back(len(arrived.log)).save(job.imported)
        if arrived.before is None or arrived.rebuilt is not None:
            arrivals.forget()
        elif arrived.grew:
            arrivals.about_to_grow(arrived.before)
        arrived.log.save(job.log)
        if store is not None:
            for answer in answers:
                change_request(store, answer)
        StepCache(job).finished("events", {"source": source.fingerprint}, watch.seconds)
        watch.done(f"{arrived.summary}{bad_rows_note(job.raw / BAD_ROWS)}")
        return arrived.log


def make_knowledge(
    run: Run, source: Dataset, catalogue: Catalogue, log: InteractionLog, only: Sequence[str] | None = None
) -> Knowledge:
    """Knowledge of every producer that the feature schema lists (or of ``only``); each runs if its inputs changed.

    The others' knowledge is what they last made, and so is that of a producer that cannot begin.
    """
    job, steps = run.job, StepCache(run.job)
    names = producers.producers_of(job.config.feature_schema)
    produced = dict(load_knowledge(job.knowledge, job.config.feature_schema, log).produced)
    current = {name: producer_inputs(job, name, source, log) for name in names}
    behind = [name for name in names if name not in produced or not is_up_to_date(job, name, current[name])]
    stale = [name for name in behind if only is None or name in only]
    for name in names:
        idle = ProducerState.KEPT if name in behind else ProducerState.CURRENT
        state = idle if name in produced else ProducerState.ABSENT
        run.record.producers[name] = ProducerSummary.of(state, produced.get(name))
    lacking = refusals.waiting(job, catalogue, log, [name for name in stale if name not in produced])
    for name, reason in lacking.items():  # before a prompt is paid for nothing
        print(f"  {name} waits: {reason}", flush=True)
        run.record.producers[name] = ProducerSummary(ProducerState.WAITS, reason=reason)
    stale = [name for name in stale if name not in lacking]
    if not stale:
        with run.step("knowledge") as watch:
            watch.done(f"up to date: {', '.join(produced) or 'nothing'}")
        return Knowledge(produced)
    run.computes_in(arithmetic_line(job.config.arithmetic))
    with open_engine(job.engine, job.config.ray) as engine, open_llm_run(run, stale, catalogue, log, engine) as ask:
        shipped = job.config.knowledge.shipped_vectors if job.use_cache else None
        work = knowledge_run(job, catalogue, log, ask, ask.session.account.model_id, engine, shipped)
        for name in stale:
            with run.step(f"knowledge: {name}") as watch:
                attempt = work.produce(name, kinds_of_texts(job, [name]))
                if attempt.produced is not None:
                    produced[name] = attempt.produced
                    watch.done(_counts(attempt.produced))
                if attempt.state is ProducerState.MADE:
                    steps.finished(name, current[name], watch.seconds)
                run.record.producers[name] = ProducerSummary.of(
                    attempt.state, produced.get(name), attempt.absent, attempt.waits
                )
                if attempt.waits and not attempt.too_little:
                    run.left(f"{name} waits: {attempt.waits}")
                elif attempt.absent and not ask.session.absent:
                    run.left(f"{name} misses texts of an earlier run that --since leaves out")
    if absent := ask.session.absent:
        first = "nothing was live, so a first refresh asked nothing; the next one does, or --ask-at-once"
        run.left(
            joined([first if run.asks_later else ask.session.account.reason], f"{absent} texts are still to come: ")
        )
    return Knowledge({name: produced[name] for name in names if name in produced})


def train_models(run: Run, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge) -> TrainingReport:
    """The CTR models; trains only if its configuration or a space changed, the log grew enough, or knowledge that was
    incomplete in the last training is complete now."""
    job, config, steps = run.job, run.job.config, StepCache(run.job)
    partial = any(produced.partial for produced in knowledge.produced.values())
    inputs = {
        "training": config.training.model_dump(mode="json"),
        "samples": config.samples.model_dump(mode="json"),
        "schema": knowledge.schema(config.feature_schema).fingerprint,
        "spaces": {space.key: space.fingerprint for space in knowledge.spaces},
    }
    with run.step("train") as watch:
        path = job.models / "report.json"
        if not (job.retrain or job.choose) and steps.is_current("train", inputs, path):
            report = TrainingReport.load(path)
            complete = (job.models / report.artifact).is_file() and (partial or not report.partial)
            trained_on = log.digest(report.log_rows)
            if not report.log:  # of an earlier version, which did not note it: the log that is there
                report = replace(report, log=trained_on)
                report.save(path)
            complete = complete and report.log == trained_on  # a log may be loaded anew
            if complete and len(log) < report.log_rows * (1 + config.training.retrain_growth):
                watch.done(f"up to date, {report.artifact}")
                return report
        from offline.training.run import train  # torch only where it is needed: an idle refresh starts in a second

        choice = None if job.choose else former_choice(job.models, config)
        report = train(config, catalogue, log, knowledge, job.models, choice)
        report = replace(report, partial=partial, log=log.digest(len(log)))
        report.save(path)
        Retraining.clear(job.config.workdir)
        steps.finished("train", inputs, watch.seconds)
        print(summary(report, job.models), flush=True)
        watch.done(f"{report.artifact}, ONNX differs from torch by at most {report.parity:.1e}")
        return report


def publish_release(
    run: Run, store: Store, contents: Contents, *, return_to: bool = False, accept: bool = False
) -> Published:
    """Changed records, and a new release if there is a new model that the gate lets pass or ``accept`` asks for."""
    job = run.job
    with run.step("publish") as watch:
        known, refused = {live_release(store)}, refused_model(store)
        if refused is not None:  # when it was, everybody's records were written
            known.add(refused.release)
        users = recent_users(job, contents.log) if release_id(job.config, contents.report) in known else None
        published = publish(
            job.config, store, contents, users=users, return_to=return_to, accept=accept, take_over=job.take_over
        )
        if published.release == live_release(store):
            forget_former(job.knowledge)
        run.published(published)
        run.compared(published)
        if published.switched:
            watch.done(f"live: {published.release}, before: {published.live_before or 'nothing'}")
        elif published.live_before == published.release:
            watch.done(f"live: {published.release}, as before")
        else:
            why = "is refused" if published.refused else "was rolled back"
            watch.done(f"live: {published.live_before}; {published.release} {why} and stays off")
        return published


@contextmanager
def language_model(job: Job, engine: Engine | None = None) -> Iterator[LLMSession]:
    """The job's language model with its answer cache, into which the shipped answers are imported."""
    with open_session(
        job.config.llm,
        job.llm,
        use_cache=job.use_cache,
        budget=job.budget,
        engine=engine,
        precision=job.config.arithmetic,
    ) as session:
        take_shipped_answers(job, session)
        yield session


@contextmanager
def open_llm_run(
    run: Run, names: Sequence[str], catalogue: Catalogue, log: InteractionLog, engine: Engine | None
) -> Iterator[LLMRun]:
    """Questions of the producers ``names``; with --since, those about recent users and items are asked already."""
    with language_model(run.job, engine) as session:
        ask = LLMRun(run, session)
        if run.job.since_ms is None:
            yield ask
        else:
            ask.ask_recent(kinds_of_texts(run.job, names), recent(run.job, log), catalogue, log)
            with ask.from_cache_alone():
                yield ask
        print(f"  {session.account.summary(run.record.job)}", flush=True)


def _counts(produced: Produced) -> str:
    summary = ProducerSummary.of(ProducerState.MADE, produced)
    parts = [] if summary.items is None else [f"{summary.items} items"]
    parts += [] if summary.users is None else [f"{summary.versions} versions of {summary.users} users"]
    return " and ".join(parts)
