"""``python -m offline JOB``: the jobs that cron and people start."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from models.contract.artifact import ArtifactError
from models.embedded import EmbeddedRedisError
from offline import refresh as pipeline
from offline.config import ConfigError, load_config
from offline.data import movielens
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.data.validate import validate as check_data
from offline.knowledge.build import Knowledge
from offline.knowledge.encoder import EncoderError
from offline.llm.cache import CacheError, ResponseCache
from offline.llm.client import LLMRunError
from offline.llm.protocol import PermanentError
from offline.llm.session import CACHE_FILE
from offline.llm.threads import wait_without_spinning
from offline.publish import release
from offline.publish.connection import StoreError, open_store
from offline.publish.gate import GateError
from offline.publish.release import SwitchError
from offline.stages import Job, Stages, exclusive
from offline.training.report import TrainingError, TrainingReport, markdown

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Turn interactions into knowledge, models and releases that the ranking service answers from.

    Start with REFRESH: it runs every stage in order and skips what is up to date. The stages also run by themselves.
    All state lies in the configuration's workdir (data, answers, vectors, models) and in --data-dir (embedded Redis,
    artifacts); both may be deleted, and a refresh builds them again. Set LORANK_REDIS_URL to publish to your own Redis.
    """,
)

Config = Annotated[Path, typer.Option("--config", "-c", help="TOML file that describes the data set and its jobs.")]
DataDir = Annotated[Path, typer.Option(envvar="LORANK_DATA_DIR", help="Embedded Redis and artifact store.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Ask the language model everything again, live.")]
Retrain = Annotated[bool, typer.Option("--retrain", help="Train even if nothing changed.")]

DEFAULT_CONFIG = Path("configs/ml-100k.toml")
DEFAULT_DATA_DIR = Path("var")


def _job(config: Path, data_dir: Path, *, use_cache: bool = True, retrain: bool = False) -> Job:
    return Job(load_config(config), data_dir, use_cache, retrain)


def _loaded(job: Job) -> tuple[InteractionLog, Knowledge]:
    """What earlier stages made; DataError if that is nothing, or if the knowledge is older than the log."""
    if not all(path.is_file() for path in (job.log, *Knowledge.files(job.knowledge))):
        raise DataError("no knowledge yet: run `refresh` or `knowledge` first")
    log, known = InteractionLog.load(job.log), Knowledge.load(job.knowledge)
    if len(known.partition_start) != len(log.user_ids) + 1 or len(known.items) != len(log.item_ids):
        raise DataError("the knowledge is older than the interaction log: run `refresh` or `knowledge` first")
    return log, known


def _report(job: Job) -> TrainingReport:
    path = job.models / "report.json"
    if not path.is_file():
        raise DataError("nothing is trained yet: run `refresh` or `train` first")
    return TrainingReport.load(path)


@app.command()
def refresh(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    no_cache: NoCache = False,
    retrain: Retrain = False,
) -> None:
    """Run all stages in order: data, events, knowledge, train, publish. Safe to repeat, and to kill and repeat."""
    pipeline.refresh(_job(config, data_dir, use_cache=not no_cache, retrain=retrain))


@app.command()
def fetch(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Get the data set from its source, unless it is already there."""
    pipeline.data(_job(config, data_dir))


@app.command()
def validate(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Check the data set against the feature schema; exits with 1 if it cannot be used."""
    job = _job(config, data_dir)
    findings = check_data(job.config.feature_schema, pipeline.data(job), list(movielens.read_ratings(job.raw)))
    for label, lines in (("fact", findings.facts), ("warning", findings.warnings), ("error", findings.errors)):
        for line in lines:
            print(f"  {label}: {line}")
    if findings.errors:
        raise typer.Exit(1)


@app.command()
def knowledge(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR, no_cache: NoCache = False) -> None:
    """Ask the language model about new items and newly closed user partitions, and encode the answers."""
    job = _job(config, data_dir, use_cache=not no_cache)
    with exclusive(job), open_store(data_dir) as store:
        catalogue = pipeline.data(job)
        pipeline.make_knowledge(job, catalogue, pipeline.events(job, catalogue, store))


@app.command()
def train(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR, retrain: Retrain = False) -> None:
    """Train the CTR models on what is there, export the served one, and print the quality table."""
    job = _job(config, data_dir, retrain=retrain)
    with exclusive(job):
        log, known = _loaded(job)
        pipeline.train_models(job, pipeline.data(job), log, known)


@app.command()
def report(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Print the quality table of the last training."""
    trained = _report(_job(config, data_dir))
    counts = ", ".join(f"{count} {split}" for split, count in trained.samples.items())
    print(f"{trained.artifact}: {counts} samples by global time\n\n{markdown(trained.table)}")


@app.command()
def publish(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    return_to: Annotated[bool, typer.Option("--return", help="Go live again after a rollback.")] = False,
) -> None:
    """Write changed records to Redis; a newly trained model becomes a release and goes live if the gate lets it."""
    job = _job(config, data_dir)
    with exclusive(job), open_store(data_dir) as store:
        log, known = _loaded(job)
        trained = _report(job)
        pipeline.publish_release(job, store, pipeline.data(job), log, known, trained, return_to=return_to)


@app.command()
def rollback(
    to: Annotated[str | None, typer.Option(help="A release id; without it, the one before the live one.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Move the live pointer back. The services follow within their poll interval."""
    with open_store(data_dir) as store:
        before, now = release.rollback(store, to)
        print(f"live: {now}, before: {before}")


@app.command()
def status(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show what is live, what is published, and when each stage last ran."""
    from offline.analysis.status import status_lines

    job = _job(config, data_dir)
    with open_store(data_dir) as store:
        for line in status_lines(job, store, Stages(job).all()):
            print(line)


@app.command()
def export_answers(
    to: Annotated[Path, typer.Argument(help="A .jsonl.gz file, such as the configuration's shipped_responses.")],
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write the language model's stored answers to a file that another machine can import."""
    path = _job(config, data_dir).llm / CACHE_FILE
    if not path.is_file():
        raise DataError(f"there are no answers in {path}: run `refresh` or `knowledge` first")
    with ResponseCache(path) as cache:
        print(f"{cache.export_jsonl_gz(to)} answers in {to}")


@app.command()
def verify(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Annotated[str | None, typer.Option(help="Send requests to this service first.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many logged requests to compare.")] = 1000,
) -> None:
    """Score logged requests again with torch, from the jobs' own data, and compare with what the service answered."""
    from offline.analysis.verify import verify as compare

    result = compare(_job(config, data_dir), url, requests)
    print(result.summary())
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def demo(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port: Annotated[int, typer.Option(help="Port of the service; 0 takes a free one.")] = 8000,
    check: Annotated[bool, typer.Option("--check", help="Assert the answer and exit, instead of serving on.")] = False,
) -> None:
    """Refresh, start the service, show one ranked answer, and keep serving until Ctrl-C."""
    from offline.demo import run_demo

    raise typer.Exit(run_demo(_job(config, data_dir), port, check))


EXPECTED = (
    ArtifactError,
    CacheError,
    ConfigError,
    DataError,
    OSError,
    httpx2.HTTPError,
    TrainingError,
    EmbeddedRedisError,
    EncoderError,
    GateError,
    LLMRunError,
    PermanentError,
    StoreError,
    SwitchError,
)
"""Failures that a person can do something about: bad input, something absent, a gate that held."""


def main() -> None:
    """Entry point. Expected failures end with one line and exit status 1, never with a traceback."""
    wait_without_spinning()  # before a job loads torch
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights come from packages and folders
    try:
        app()
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
