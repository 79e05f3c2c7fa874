"""Options that several jobs share, and the job that they describe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from offline.config import ConfigError, load_config
from offline.jobs.events import parse_since
from offline.jobs.steps import Engine, Job
from offline.knowledge.run import producers_of
from offline.llm.budget import Budget

DEFAULT_CONFIG = Path("configs/ml-100k.toml")
DEFAULT_DATA_DIR = Path("var")

Config = Annotated[Path, typer.Option("--config", "-c", help="TOML file that describes the data set and its jobs.")]
DataDir = Annotated[Path, typer.Option(envvar="LORANK_DATA_DIR", help="Embedded Redis and artifact store.")]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Ask the language model everything again; take no shipped vectors.")
]
Retrain = Annotated[bool, typer.Option("--retrain", help="Train even if nothing changed.")]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Ask the language model only about users and items with something new since then: "
        "2026-11-20, 2026-11-20T06:00 (UTC), 45m, 12h or 7d ago.",
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=0, help="Stop asking before this run's prompts and answers exceed so many tokens.")
]
MaxCost = Annotated[
    float | None, typer.Option(min=0, help="Stop asking before this run costs more, at the configuration's prices.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be asked and what it would cost; change nothing.")
]
AskRefused = Annotated[
    bool, typer.Option("--ask-refused", help="Ask again what the language model refused for good; all else stays.")
]
EngineName = Annotated[Engine, typer.Option(help="Where encoding and asking run: in this process, or on Ray.")]
MetricsFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE.prom", help="Write metrics for Prometheus' text-file collector when the run ends."),
]
Producers = Annotated[
    list[str] | None, typer.Option("--producer", metavar="NAME", help="Only this producer; may be repeated.")
]


def job_of(
    config: Path,
    data_dir: Path,
    *,
    retrain: bool = False,
    metrics: Path | None = None,
) -> Job:
    """The job of one call. ConfigError for a configuration that is not understood."""
    return Job(load_config(config), data_dir, retrain=retrain, metrics=metrics)


def asking(
    job: Job,
    since: str | None,
    max_tokens: int | None,
    max_cost: float | None,
    no_cache: bool,
    ask_refused: bool,
    engine: Engine,
) -> Job:
    """A job that asks the language model, within bounds. typer.BadParameter for options that make no sense."""
    budget = Budget(max_tokens, max_cost)
    try:
        since_ms = None if since is None else parse_since(since)
        budget.check(job.config.llm.prices)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return replace(
        job, use_cache=not no_cache, ask_refused=ask_refused, since_ms=since_ms, budget=budget, engine=engine
    )


def chosen(job: Job, names: list[str] | None) -> tuple[str, ...] | None:
    """The producers that were asked for, None for all of them. ConfigError for one that the schema does not list."""
    listed = producers_of(job.config.feature_schema)
    if unknown := set(names or ()) - set(listed):
        raise ConfigError(f"{job.config.name} has no producer {', '.join(sorted(unknown))}; it has {', '.join(listed)}")
    return tuple(name for name in listed if name in names) if names else None
