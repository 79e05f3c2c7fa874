"""The jobs that change something. Each is one run: locked, in the ledger, summed up in a last line of JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from offline import refresh as pipeline
from offline.cli.call import (
    DEFAULT_CONFIG,
    DEFAULT_DATA_DIR,
    EXPECTED,
    AskRefused,
    Choose,
    Config,
    DataDir,
    DryRun,
    EngineName,
    MaxCost,
    MaxTokens,
    MetricsFile,
    NoCache,
    Producers,
    Retrain,
    Since,
    TakeOver,
    asking,
    carry_out,
    chosen,
    job_of,
    sum_up,
)
from offline.cli.panels import BACK, DATA, MAKE
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.data.log_settings import refuse_other_settings
from offline.forgetting.run import forget_users
from offline.jobs import one_producer, refusals
from offline.jobs.ledger import RunStatus
from offline.jobs.one_producer import all_wait
from offline.jobs.runs import EXIT_CODES, Run
from offline.jobs.steps import Job
from offline.knowledge.run import load_knowledge
from offline.knowledge.vectors import Knowledge
from offline.publish import release
from offline.publish.connection import open_store, store_if_there
from offline.publish.staging import Contents
from offline.training.report import TrainingReport

app = typer.Typer()


@app.command(rich_help_panel=MAKE)
def refresh(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    since: Since = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    dry_run: DryRun = False,
    no_cache: NoCache = False,
    ask_refused: AskRefused = False,
    retrain: Retrain = False,
    choose: Choose = False,
    take_over: TakeOver = False,
    engine: EngineName = "local",
    ask_at_once: Annotated[
        bool, typer.Option("--ask-at-once", help="Ask the language model also if nothing is live yet.")
    ] = False,
    metrics_file: MetricsFile = None,
) -> None:
    """Run all stages in order: data, events, knowledge, train, publish. Safe to repeat, and to kill and repeat."""
    job = job_of(config, data_dir, retrain=retrain, choose=choose, take_over=take_over, metrics=metrics_file)
    job = asking(job, since, max_tokens, max_cost, no_cache, ask_refused, engine)
    job = replace(job, live_first=not ask_at_once)
    _carry_out_or_plan(job, "refresh", pipeline.all_stages, dry_run)


@app.command(rich_help_panel=MAKE)
def knowledge(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    producer: Producers = None,
    since: Since = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    dry_run: DryRun = False,
    no_cache: NoCache = False,
    ask_refused: AskRefused = False,
    engine: EngineName = "local",
    metrics_file: MetricsFile = None,
) -> None:
    """Ask the language model about new items and newly closed user partitions, and encode the answers."""
    job = job_of(config, data_dir, metrics=metrics_file)
    job = asking(job, since, max_tokens, max_cost, no_cache, ask_refused, engine)
    only = chosen(job, producer)

    def work(run: Run) -> None:
        refusals.check_settings(job)
        with open_store(job.data_dir, job.config.name) as store:
            forget_users(run, store)
            source, catalogue = pipeline.data(run)
            log = pipeline.events(run, source, catalogue, store)
            refusals.check_log(job, source, catalogue, log)
            pipeline.make_knowledge(run, source, catalogue, log, only)

    _carry_out_or_plan(job, "knowledge", work, dry_run, only)


@app.command(rich_help_panel=MAKE)
def train(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    retrain: Retrain = False,
    choose: Choose = False,
    metrics_file: MetricsFile = None,
) -> None:
    """Train the CTR models on what is there, export the served one, and print the quality table."""
    job = job_of(config, data_dir, retrain=retrain, choose=choose, metrics=metrics_file)

    def work(run: Run) -> None:
        with store_if_there(job.data_dir, job.config.name) as store:
            forget_users(run, store)
        log, known = data_and_knowledge(job)
        source, catalogue = pipeline.data(run)
        refusals.check_log(job, source, catalogue, log)
        pipeline.train_models(run, catalogue, log, known)

    carry_out(job, "train", work)


@app.command(rich_help_panel=MAKE)
def publish(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    producer: Annotated[str | None, typer.Option(metavar="NAME", help="Only this producer's records.")] = None,
    return_to: Annotated[bool, typer.Option("--return", help="Go live again after a rollback.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Let the model that was refused last go live all the same, this once.")
    ] = False,
    take_over: TakeOver = False,
    metrics_file: MetricsFile = None,
) -> None:
    """Write changed records to Redis; a newly trained model becomes a release and goes live if the gate lets it."""
    if accept and producer is not None:
        raise typer.BadParameter("--accept is of a model, --producer of records: say one of them")
    job = job_of(config, data_dir, take_over=take_over, metrics=metrics_file)
    chosen(job, [producer] if producer else None)

    def work(run: Run) -> None:
        with open_store(job.data_dir, job.config.name) as store:
            forget_users(run, store)
            log, known = data_and_knowledge(job)
            trained = trained_last(job)
            if producer is None:
                contents = Contents(pipeline.data(run)[1], log, known, trained, job.models)
                pipeline.publish_release(run, store, contents, return_to=return_to, accept=accept)
            else:
                one_producer.publish_one(run, store, log, known, producer, return_to=return_to)

    carry_out(job, "publish", work)


@app.command(rich_help_panel=BACK)
def rollback(
    to: Annotated[str | None, typer.Option(help="A release id; without it, the one before the live one.")] = None,
    producer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Take back this producer's last publication, not the release.")
    ] = None,
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    metrics_file: MetricsFile = None,
) -> None:
    """Move the live pointer back, at once, whatever else is at work; or take back one producer's last publication.

    The services follow within their poll interval. What was rolled back stays so until `publish --return`.
    """
    if producer is None:
        if metrics_file is not None:
            raise typer.BadParameter("moving the live pointer is no run of a work folder and has no metrics")
        _move_pointer(job_of(config, data_dir), to)
        return
    if to is not None:
        raise typer.BadParameter("--to names a release, --producer a producer: say one of them")
    job = job_of(config, data_dir, metrics=metrics_file)
    chosen(job, [producer])

    def work(run: Run) -> None:
        with open_store(job.data_dir, job.config.name) as store:
            forget_users(run, store)
            one_producer.roll_back_one(run, store, producer)

    carry_out(job, "rollback", work)


@app.command(rich_help_panel=DATA)
def import_texts(
    items: Annotated[Path | None, typer.Option(metavar="FILE", help="Columns item, text.")] = None,
    users: Annotated[Path | None, typer.Option(metavar="FILE", help="Columns user, text, and maybe partition.")] = None,
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    metrics_file: MetricsFile = None,
) -> None:
    """Take over ready-made knowledge texts (.jsonl, .csv, .parquet); the next refresh encodes and publishes them."""
    if items is None and users is None:
        raise typer.BadParameter("say --items FILE, --users FILE, or both")
    from offline.import_texts import import_texts as take_over  # polars

    job = job_of(config, data_dir, metrics=metrics_file)
    carry_out(job, "import-texts", lambda run: take_over(run, items, users))


def _move_pointer(job: Job, to: str | None) -> None:
    """Roll a release back, with no work folder and no ledger; the last line says how that ended, as a run's does."""
    try:
        with open_store(job.data_dir, job.config.name) as store:
            before, now = release.rollback(store, to)
            print(f"live: {now}, before: {before}")
    except EXPECTED as error:
        reason = f"{type(error).__name__}: {error}"
        sum_up({"job": "rollback", "status": "failed", "exit_code": EXIT_CODES[RunStatus.FAILED], "reasons": [reason]})
        raise
    sum_up({"job": "rollback", "status": "done", "exit_code": 0, "release": now, "before": before})


def data_and_knowledge(job: Job) -> tuple[InteractionLog, Knowledge]:
    """The log and the knowledge of earlier stages; DataError without any, if the schema reads some and not all of its
    producers wait."""
    log, schema = InteractionLog.load(job.log), job.config.feature_schema
    refuse_other_settings(log, job.config.data)
    known = load_knowledge(job.knowledge, schema, log)
    if schema.knowledge and not known.produced and not all_wait(job):
        raise DataError("no knowledge yet: run `refresh` or `knowledge` first")
    return log, known


def trained_last(job: Job) -> TrainingReport:
    """The last training's report; DataError if there is none."""
    path = job.models / "report.json"
    if not path.is_file():
        raise DataError("nothing is trained yet: run `refresh` or `train` first")
    return TrainingReport.load(path)


def _carry_out_or_plan(
    job: Job, name: str, work: Callable[[Run], object], is_dry_run: bool, only: tuple[str, ...] | None = None
) -> None:
    if is_dry_run:
        from offline.jobs.dry_run import dry_run

        result = dry_run(job, only, measured=True)
        print("\n".join(result.lines()))
        sum_up({"job": name, "config": job.config.name, "dry_run": True, **result.summary()})
    else:
        carry_out(job, name, work)
