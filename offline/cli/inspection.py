"""The jobs that look, check, fetch or show. They hold no lock and leave no line in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offline.cli.call import (
    DEFAULT_CONFIG,
    DEFAULT_DATA_DIR,
    DEMO_CONFIG,
    DEMO_DATA_DIR,
    Config,
    DataDir,
    job_of,
    sum_up,
)
from offline.cli.jobs import trained_last
from offline.cli.panels import CARRY, DATA, LOOK, TRY
from offline.data.catalogue import DataError
from offline.data.dataset import open_dataset
from offline.data.rules import rule_lines
from offline.jobs.steps import Job
from offline.llm.account import CACHE_FILE
from offline.llm.cache import ResponseCache
from offline.publish.connection import open_store
from offline.training.report import slices_markdown, summary

app = typer.Typer()

Measured = Annotated[
    bool,
    typer.Option(
        "--measure/--no-measure", help="Time a batch of texts and one of prompts, to tell how long a run takes."
    ),
]


@app.command(rich_help_panel=DATA)
def fetch(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Get the data set from its source, unless it is already there."""
    job = job_of(config, data_dir)
    print("fetched" if open_dataset(job.config.data, job.raw).fetch() else "already here")


@app.command(rich_help_panel=DATA)
def validate(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    rules: Annotated[bool, typer.Option("--rules", help="Print every rule that data have to keep, and exit.")] = False,
    measured: Measured = True,
) -> None:
    """Check whatever would keep a refresh from ending well: settings, this machine, the data and what they leave for
    training and knowledge; say how long its texts take here. Exits with 1 for an error."""
    if rules:
        print("\n".join(rule_lines()))
        return
    print_findings(job_of(config, data_dir), measured=measured)


def print_findings(job: Job, *, measured: bool) -> None:
    """Print what can be told of a job before it runs. typer.Exit(1) if it would be refused."""
    from offline.jobs.refusals import of_everything

    findings = of_everything(job, measured=measured)
    for label, lines in (("fact", findings.facts), ("warning", findings.warnings), ("error", findings.errors)):
        for line in lines:
            print(f"  {label}: {line}")
    if findings.errors:
        raise typer.Exit(1)


@app.command("config", rich_help_panel=DATA)
def print_config(
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Every key with its meaning and its default, as commented TOML.")
    ] = False,
) -> None:
    """Print what a configuration can say."""
    from offline.cli.defaults import default_lines

    if not defaults:
        raise typer.BadParameter("say --defaults")
    print("\n".join(default_lines()))


@app.command(rich_help_panel=LOOK)
def report(config: Config = DEFAULT_CONFIG, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Print the quality table of the last training, and where its page lies."""
    job = job_of(config, data_dir)
    trained = trained_last(job)
    counts = ", ".join(f"{count} {split}" for split, count in trained.samples.items())
    print(f"{trained.artifact}: {counts} samples {trained.split}\n\n{summary(trained, job.models)}")
    if trained.slices:
        print(f"\n{slices_markdown(trained.slices)}")


@app.command(rich_help_panel=LOOK)
def status(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    users: Annotated[int, typer.Option(min=1, help="Users of the forecast.")] = 10_000_000,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(min=0.001, help="Answer tokens that one GPU makes per second; without it, as measured here."),
    ] = None,
    prompt_tokens_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Prompt tokens that one GPU reads per second; without it, free.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead.")] = False,
) -> None:
    """Show what is live, each producer, the last runs and what they cost, and what more users would take."""
    from offline.jobs.forecast import forecast_of
    from offline.jobs.status import status_of

    job = job_of(config, data_dir)
    with open_store(job.data_dir, job.config.name) as store:
        state = status_of(job, store)
        forecast = forecast_of(job, store, users, tokens_per_second, prompt_tokens_per_second)
    if as_json:
        sum_up({**state.document(), "forecast": forecast.document() if forecast else None})
        return
    print("\n".join((*state.lines(), *(forecast.lines() if forecast else ()))))


@app.command(rich_help_panel=CARRY)
def export_answers(
    to: Annotated[Path, typer.Argument(help="A .jsonl.gz file, such as the configuration's shipped_responses.")],
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write the language model's stored answers to a file that another machine can import."""
    path = job_of(config, data_dir).llm / CACHE_FILE
    if not path.is_file():
        raise DataError(f"there are no answers in {path}: run `refresh` or `knowledge` first")
    with ResponseCache(path) as cache:
        print(f"{cache.export_jsonl_gz(to)} answers in {to}")


@app.command(rich_help_panel=CARRY)
def export_vectors(
    to: Annotated[Path, typer.Argument(help="An .npz file, such as the configuration's shipped_vectors.")],
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write encoded texts and MARC's hidden states to a file that spares another machine their computation."""
    from offline.knowledge.run import export_vectors as export

    job = job_of(config, data_dir)
    print(f"{export(job.config.knowledge, job.knowledge, job.checkpoints, to)} vectors in {to}")


@app.command(rich_help_panel=LOOK)
def verify(
    config: Config = DEFAULT_CONFIG,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Annotated[str | None, typer.Option(help="Send requests to this service first.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many logged requests to compare.")] = 1000,
) -> None:
    """Score logged requests again with torch, from the jobs' own data, and compare with what the service answered."""
    job = job_of(config, data_dir)
    from offline.jobs.verify import verify as compare  # torch

    result = compare(job, url, requests)
    print(result.summary())
    if not result.passed:
        raise typer.Exit(1)


@app.command(rich_help_panel=TRY)
def demo(
    config: Config = DEMO_CONFIG,
    data_dir: Annotated[Path, typer.Option(help="Its own, so that it meets no other configuration.")] = DEMO_DATA_DIR,
    port: Annotated[int, typer.Option(help="Port of the service; 0 takes a free one.")] = 8000,
    check: Annotated[bool, typer.Option("--check", help="Assert the answer and exit, instead of serving on.")] = False,
) -> None:
    """Refresh, start the service, show one ranked answer, and keep serving until Ctrl-C."""
    from offline.demo import run_demo

    raise typer.Exit(run_demo(job_of(config, data_dir), port, check))
